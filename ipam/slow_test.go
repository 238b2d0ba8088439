package ipam

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// stuckSender cannot send to peers below live.
type stuckSender struct {
	gossip.Sender
	live  peer.Name
	tried map[peer.Name]bool
}

func (s *stuckSender) Unicast(ctx context.Context, to peer.Name, _ []byte) error {
	s.tried[to] = true
	if to < s.live {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// TestAStuckLinkHoldsUpNoSurvey: however many peers are behind it, all are asked for their rings before a takeover gives up
// waiting, and those that are not reached are told of.
func TestAStuckLinkHoldsUpNoSurvey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2)))
		s := &stuckSender{live: maxSurveys, tried: make(map[peer.Name]bool)}
		a := &Allocator{sender: s, codec: gobCodec{}, now: time.Now, core: c}
		a.published.Store(c.view(nil))
		var all []peer.Name
		for i := range peer.Name(maxSurveys) {
			all = append(all, i+1)
		}
		begun := time.Now()
		done := c.beginSurvey(all, begun)
		a.send(t.Context(), c.takeOut())
		require.Less(t, time.Since(begun), surveyFor)
		require.Len(t, s.tried, maxSurveys)
		require.Equal(t, map[peer.Name]struct{}{maxSurveys: {}}, c.survey.missing)
		require.Len(t, c.survey.silent, maxSurveys-1)
		require.NoError(t, c.receive(maxSurveys, state{ring: c.ring, copyOf: maxSurveys}, time.Now()))
		<-done
	})
}

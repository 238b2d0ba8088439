package mesh

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestVectorBucket(t *testing.T) {
	var want struct {
		Cases []struct {
			Calls []struct {
				Blocked int64 `json:"blocked_ms"`
				Called  int64 `json:"called_at_ms"`
			}
			Case  string
			Start int64 `json:"start_ns_past_grid"`
		}
	}
	load(t, "accept-token-bucket", nil, &want)
	for _, w := range want.Cases {
		start := time.Unix(1e6, 0).Add(time.Duration(w.Start))
		b := newBucket(start)
		for i, c := range w.Calls {
			got := b.take(start.Add(time.Duration(c.Called) * time.Millisecond))
			require.InDelta(t, c.Blocked, got.Milliseconds(), 1, "%s, call %d", w.Case, i)
		}
	}
}

func TestVectorSurrogate(t *testing.T) {
	var want struct {
		Steps []struct {
			At       float64 `json:"at_s"`
			Message  string
			Relayed  bool
			Remember []string `json:"remembered_after"`
		}
	}
	load(t, "surrogate-dedup", nil, &want)
	synctest.Test(t, func(t *testing.T) {
		s, start := newSurrogates(30*time.Second), time.Now()
		for _, w := range want.Steps {
			now := start.Add(time.Duration(w.At * float64(time.Second)))
			require.Equal(t, w.Relayed, s.fresh([]byte("ch"), []byte(w.Message), now), "%+v", w)
			require.Len(t, s.channels["ch"].seen, len(w.Remember))
		}
	})
}

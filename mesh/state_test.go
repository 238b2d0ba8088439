package mesh

import (
	"encoding/json"
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/meshtest"
)

// tally is a set that grows.
type tally map[string]bool

func (s tally) MarshalBinary() ([]byte, error) { return json.Marshal(s) }

func (s tally) Merge(other tally) (tally, bool) {
	union := maps.Clone(s)
	maps.Copy(union, other)
	return union, len(union) > len(s)
}

func TestReplicatedState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		var states []*gossip.State[tally]
		var rs []*running
		var told atomic.Int32
		for i := 1; i <= 3; i++ {
			rs = append(rs, start(t, inMemory(n, i, 1), func(r *Router) {
				s, err := gossip.NewState(r, "tally", tally{}, func(b []byte) (s tally, err error) {
					return s, json.Unmarshal(b, &s)
				}, func(tally) { told.Add(1) })
				require.NoError(t, err)
				states = append(states, s)
			}))
		}
		states[2].Change(func(tally) tally { return tally{"before it was connected": true} })
		time.Sleep(10 * time.Second)
		states[0].Change(func(tally) tally { return tally{"now": true} })
		states[0].Change(func(tally) tally { return tally{"now": true} })
		time.Sleep(time.Second)
		for _, s := range states {
			require.Len(t, s.Value(), 2)
		}
		synctest.Wait()
		require.EqualValues(t, 4, told.Load())
		for _, r := range rs {
			r.stop()
		}
	})
}

package mesh

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/peer"
)

// echo is a receiver that notes calls and answers as the vectors' channels do.
type echo struct {
	mu    sync.Mutex
	calls []string
}

func (e *echo) note(format string, args ...any) gossip.Data {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, fmt.Sprintf(format, args...))
	return nil
}

func (e *echo) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.calls
	e.calls = nil
	return out
}

func (e *echo) answer(msg []byte) gossip.Data {
	if string(msg) == "p2" {
		return nil
	}
	return words{"seen:" + string(msg)}
}

func (e *echo) OnUnicast(from peer.Name, msg []byte) error {
	e.note("unicast %s %x", from, msg)
	return nil
}

func (e *echo) OnBroadcast(from peer.Name, msg []byte) (gossip.Data, error) {
	e.note("broadcast %s %x", from, msg)
	return e.answer(msg), nil
}

func (e *echo) OnGossip(msg []byte) (gossip.Data, error) {
	e.note("gossip  %x", msg)
	return e.answer(msg), nil
}

func (e *echo) OnPeerGone(n peer.Name) { e.note("gone %s", n) }
func (e *echo) State() gossip.Data     { return nil }

// words is Data that merges by union.
type words []string

func (w words) Encode() [][]byte { return [][]byte{[]byte(strings.Join(w, " "))} }

func (w words) Merge(other gossip.Data) gossip.Data {
	all := append(slices.Clone(w), other.(words)...)
	slices.Sort(all)
	return words(slices.Compact(all))
}

func TestVectorRelayRules(t *testing.T) {
	var want struct {
		Steps []struct {
			Callbacks []struct {
				Callback, Source string
				Payload          string `json:"payload_hex"`
			}
			Received hexBytes `json:"received_hex"`
			To01     []string `json:"sent_to_01_hex"`
			To03     []string `json:"sent_to_03_hex"`
			What     string
		}
	}
	load(t, "relay-rules", nil, &want)
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		c := old(inMemory(n, 1))
		c.Name = name(2)
		recv := &echo{}
		r := start(t, c, func(r *Router) {
			_, err := r.Join("known", recv)
			require.NoError(t, err)
		})
		synctest.Wait()
		left, right := join(t, n, name(1), 1), join(t, n, name(3), 3)
		left.sendTopology(t, map[peer.Name][]peer.Name{name(1): {name(2)}})
		right.sendTopology(t, map[peer.Name][]peer.Name{name(3): {name(2)}})
		time.Sleep(2 * time.Second)
		left.received(t)
		right.received(t)
		for _, w := range want.Steps {
			left.send(t, w.Received)
			time.Sleep(100 * time.Millisecond)
			var calls []string
			for _, c := range w.Callbacks {
				calls = append(calls, fmt.Sprintf("%s %s %s", c.Callback, c.Source, c.Payload))
			}
			require.Equal(t, calls, recv.take(), w.What)
			require.Equal(t, w.To01, hexList(left.received(t)), w.What)
			require.Equal(t, w.To03, hexList(right.received(t)), w.What)
		}
		_ = left.Close()
		_ = right.Close()
		r.stop()
	})
}

func hexList(list [][]byte) []string {
	out := []string{}
	for _, b := range list {
		out = append(out, hex.EncodeToString(b))
	}
	return out
}

// TestVectorJoin compares what we tell on fresh connections with what the reference tells: the whole topology at once.
func TestVectorJoin(t *testing.T) {
	var want struct {
		To01 []struct {
			Peers []string `json:"topology_peers"`
		} `json:"sent_to_01"`
	}
	load(t, "join-gossip", nil, &want)
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		c := old(inMemory(n, 1))
		c.Name = name(2)
		r := start(t, c)
		synctest.Wait()
		one := join(t, n, name(1), 1)
		told := func(c *client) (names []string) {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(3*time.Second)))
			for {
				msg, err := c.s.in.next()
				if err != nil {
					return names
				}
				m, err := parseMessage(msg[0], msg[1:])
				require.NoError(t, err)
				entries, _, err := decodeUpdate(m.payload, nothingKnown)
				require.NoError(t, err)
				for _, e := range entries {
					names = append(names, hex.EncodeToString(e.name.AppendBytes(nil)))
				}
			}
		}
		first := told(one)
		require.Subset(t, first, want.To01[0].Peers)
		require.Subset(t, want.To01[0].Peers, first)
		three := join(t, n, name(3), 3)
		require.Subset(t, told(three), want.To01[1].Peers)
		_ = one.Close()
		_ = three.Close()
		r.stop()
	})
}

// TestVectorCoalescing queues behind a blocked write.
func TestVectorCoalescing(t *testing.T) {
	var want struct {
		Written []string `json:"written_in_order"`
	}
	load(t, "sender-coalescing", nil, &want)
	require.Equal(t, []string{"tag 4: [first]", "tag 4: [a b]", "tag 6: 00:00:00:00:00:01|[x y]"}, want.Written)
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		var sender gossip.Sender
		c := old(inMemory(n, 1))
		r := start(t, c, func(r *Router) {
			var err error
			sender, err = r.Join("words", &echo{})
			require.NoError(t, err)
		})
		synctest.Wait()
		cl := join(t, n, name(2), 1)
		cl.sendTopology(t, map[peer.Name][]peer.Name{name(2): {name(1)}})
		time.Sleep(2 * time.Second)
		cl.received(t)
		big := strings.Repeat("x", 2<<20) // more than the pipe holds: the write blocks
		sender.Gossip(words{big})
		synctest.Wait()
		ch := sender.(*channel)
		ch.spread(1, words{"x"}) // a source that is not known has no tree
		lane := r.view.Load().links[name(2)].lanes[ch]
		lane.push(1, &item{data: words{"x"}})
		sender.Gossip(words{"b"})
		sender.Gossip(words{"a"})
		lane.push(1, &item{data: words{"y"}})
		sender.Gossip(words{"a"})
		got := cl.received(t)
		require.Len(t, got, 3)
		m, err := parseMessage(got[1][0], got[1][1:])
		require.NoError(t, err)
		require.Equal(t, "4 a b", fmt.Sprint(m.tag, " ", string(m.payload)))
		m, err = parseMessage(got[2][0], got[2][1:])
		require.NoError(t, err)
		require.Equal(t, "6 x y 00:00:00:00:00:01", fmt.Sprint(m.tag, " ", string(m.payload), " ", m.src))
		_ = cl.Close()
		r.stop()
	})
}

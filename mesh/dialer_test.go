package mesh

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

func TestVectorRetry(t *testing.T) {
	var want struct {
		Sequence []struct {
			Earliest int64 `json:"earliest_delay_ns"`
			Interval int64 `json:"interval_ns"`
			Latest   int64 `json:"latest_delay_ns_exclusive"`
		}
	}
	load(t, "retry-intervals", nil, &want)
	for _, last := range []bool{false, true} {
		d := newDialer(6783, func(n int64) int64 {
			if last {
				return n - 1
			}
			return 0
		})
		now := time.Unix(0, 0)
		tg := &target{interval: retryFirst}
		for _, w := range want.Sequence {
			require.EqualValues(t, w.Interval, tg.interval)
			d.later(tg, now)
			if delay := tg.next.Sub(now).Nanoseconds(); last {
				require.Equal(t, w.Latest-1, delay)
			} else {
				require.Equal(t, w.Earliest, delay)
			}
		}
	}
}

type targetCase struct {
	Case        string
	Direct      []string `json:"direct_peers"`
	Discovery   bool
	Connections []struct {
		Address  string
		Outbound bool
		Peer     peer.Name
	} `json:"our_connections"`
	Before   []struct{ Address, Due, State string } `json:"targets_before"`
	Topology []struct {
		Address     string
		Established bool
		Lists       peer.Name
		Outbound    bool
		Peer        peer.Name
	}
}

func TestVectorTargets(t *testing.T) {
	var in struct {
		Cases []targetCase
		Name  peer.Name `json:"our_name"`
		Port  uint16    `json:"our_port"`
	}
	var want struct {
		Results []struct {
			Case    string
			Dialled []struct {
				Accept  bool `json:"accept_new_peer"`
				Address string
			}
			After map[string]string `json:"targets_after"`
		}
	}
	load(t, "connection-targets", &in, &want)
	now := time.Now()
	for i, c := range in.Cases {
		d := newDialer(in.Port, func(int64) int64 { return 0 })
		for _, text := range c.Direct {
			ap := netip.MustParseAddrPort(text)
			d.direct[text] = endpoint{text: text, host: ap.Addr().String(), addr: ap.Addr(), port: ap.Port()}
		}
		due := map[string]time.Time{"now": now, "in-1-hour": now.Add(time.Hour)}
		for _, b := range c.Before {
			ap := netip.MustParseAddrPort(b.Address)
			d.targets[b.Address] = &target{
				key: b.Address, endpoint: endpoint{addr: ap.Addr(), port: ap.Port()}, next: due[b.Due], never: b.Due == "never",
				interval: retryFirst, state: targetState(slices.Index(targetStates[:], b.State)),
			}
		}
		w, got := want.Results[i], map[string]bool{}
		for _, tg := range d.pass(c.situation(t, in.Name, in.Port), now) {
			got[tg.key] = tg.direct
		}
		require.Len(t, got, len(w.Dialled), c.Case)
		for _, x := range w.Dialled {
			direct, dialled := got[x.Address]
			require.True(t, dialled, c.Case)
			require.Equal(t, x.Accept, direct, c.Case)
		}
		after := map[string]string{}
		for key, tg := range d.targets {
			after[key] = tg.state.String()
		}
		require.Len(t, after, len(w.After), c.Case)
		for key, state := range w.After {
			require.Equal(t, state, after[key], c.Case)
		}
	}
}

func (c targetCase) situation(t *testing.T, self peer.Name, port uint16) situation {
	s := situation{want: maxAttempts, reachable: func(peer.Name) bool { return false }}
	connected := map[peer.Name]bool{}
	for _, l := range c.Connections {
		s.links = append(s.links, linkInfo{name: l.Peer, addr: netip.MustParseAddrPort(l.Address), outbound: l.Outbound})
		connected[l.Peer] = true
	}
	var edges []edge
	names := map[peer.Name]bool{self: true}
	for _, e := range c.Topology {
		edges = append(edges, edge{From: e.Peer, To: e.Lists, Established: e.Established, Address: e.Address, Outbound: e.Outbound})
		names[e.Peer], names[e.Lists] = true, true
	}
	var all []peer.Name
	for n := range names {
		all = append(all, n)
	}
	topo := topologyOf(t, self, all, edges)
	if c.Discovery {
		s.learned = learn(topo, func(n peer.Name) bool { return connected[n] }, port)
	}
	return s
}

func TestParseTarget(t *testing.T) {
	for text, key := range map[string]string{
		"10.0.0.1": "10.0.0.1:6783", "10.0.0.1:7": "10.0.0.1:7", "host": "host:6783", "a.b-c:99": "a.b-c:99",
		"::1": "[::1]:6783", "[::1]:5": "[::1]:5", "10.0.0.1:0": "10.0.0.1:6783",
	} {
		e, err := parseTarget(text)
		require.NoError(t, err, text)
		require.Equal(t, key, newDialer(6783, nil).key(e))
	}
	for _, text := range []string{"", ":6783", "a b", "host:", "host:x y", "host:99999", "10.0.0", "999.1.1.1", "[::1", "a/b", "1:2:3"} {
		_, err := parseTarget(text)
		if text == "host:" {
			require.NoError(t, err)
			continue
		}
		require.Error(t, err, text)
	}
}

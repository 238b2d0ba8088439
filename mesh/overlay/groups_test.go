package overlay_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	linuxGroup = "01:00:5e:01:02:03" // of LinuxFrame
	settled    = 15 * time.Second    // by then stations have had time to answer, and all peers know
)

// snoopingHost is a host whose switch shares memberships with others, as a daemon wires it. Old ones know nothing of that.
func snoopingHost(t *testing.T, n *overlaytest.Network, bus *gossiptest.Bus, name peer.Name, old bool) *host {
	h := &host{name: name, fast: n.Overlay(name, "fast"), slow: n.Overlay(name, "slow"), port: overlaytest.NewPort(name.String())}
	c := overlay.SwitchConfig{Self: name, Overlays: []overlay.Overlay{h.fast, h.slow}, Port: h.port}
	var state *gossip.State[overlay.Memberships]
	if !old {
		c.Announce = func(m overlay.Memberships) {
			state.Change(func(overlay.Memberships) overlay.Memberships { return m })
		}
	}
	var err error
	h.sw, err = overlay.NewSwitch(c)
	require.NoError(t, err)
	node := bus.Node(gossip.Member{Name: name})
	changed := h.sw.Forwarder().SetMemberships
	if old {
		changed = nil
	}
	state, err = gossip.NewState(node, overlay.MulticastChannel, nil, overlay.ParseMemberships, changed)
	require.NoError(t, err)
	return h
}

// snoopingLine is three hosts in a row, A - B - C.
func snoopingLine(t *testing.T, oldB bool) (a, b, c *host) {
	n, bus := overlaytest.NewNetwork(), gossiptest.New(gossiptest.Config{})
	a, b, c = snoopingHost(t, n, bus, peerA, false), snoopingHost(t, n, bus, peerB, oldB), snoopingHost(t, n, bus, peerC, false)
	type hops = map[peer.Name]peer.Name
	for h, trees := range map[*host]map[peer.Name]hops{
		a: {peerA: {peerB: peerB, peerC: peerB}},
		b: {peerA: {peerC: peerC}, peerB: {peerA: peerA, peerC: peerC}, peerC: {peerA: peerA}},
		c: {peerC: {peerA: peerB, peerB: peerB}},
	} {
		r := overlaytest.Routes{Hops: trees[h.name], Floods: map[peer.Name][]peer.Name{}, Trees: trees}
		for src, tree := range trees {
			for dst, hop := range tree {
				if dst == hop {
					r.Floods[src] = append(r.Floods[src], hop)
				}
			}
		}
		h.sw.Forwarder().SetRoutes(r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- bus.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.Empty(t, bus.Faults())
	})
	for _, h := range []*host{a, b, c} {
		run(t, h.sw)
	}
	join(t, a, b)
	join(t, b, c)
	return a, b, c
}

// tells has a station of h send a frame, and returns to which hosts it came; frames of switches do not count.
func tells(t *testing.T, h *host, frame []byte, hosts ...*host) (heard []peer.Name) {
	t.Helper()
	require.NoError(t, h.port.Inject(frame))
	synctest.Wait()
	for _, to := range hosts {
		for range len(to.port.Written()) {
			if got := <-to.port.Written(); string(got) == string(frame) {
				heard = append(heard, to.name)
			}
		}
	}
	return heard
}

func TestGroupsOfHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := snoopingLine(t, false)
		data := ethernet(linuxGroup, macA)
		require.Equal(t, []peer.Name{peerB, peerC}, tells(t, a, data, a, b, c))
		time.Sleep(time.Second)
		require.Equal(t, []peer.Name{peerB, peerC}, a.sw.Status().AllGroups, "they do not know yet what they have")
		time.Sleep(settled)
		require.Empty(t, a.sw.Status().AllGroups)
		require.Equal(t, []peer.Name{peerB, peerC}, tells(t, a, data, a, b, c), "nobody is known to be a member")

		require.Empty(t, tells(t, c, overlay.LinuxFrame("IGMPv2 join"), a, b, c), "might silence other members")
		time.Sleep(time.Second)
		want := []overlay.GroupEntry{{Group: mac(linuxGroup), Members: []peer.Name{peerC}}}
		for _, h := range []*host{a, b, c} {
			require.Equal(t, want, h.sw.Status().Groups)
		}
		require.Equal(t, []peer.Name{peerB, peerC}, tells(t, a, data, a, b, c), "on the way to C")
		require.Equal(t, []peer.Name{peerC}, tells(t, b, ethernet(linuxGroup, macB), a, b, c))
		require.Empty(t, tells(t, c, ethernet(linuxGroup, macC), a, b, c))
		require.Equal(t, uint64(1), c.sw.Status().Drops["no_member"]-1, "with the report")
		require.Equal(t, []peer.Name{peerA, peerB}, tells(t, c, ethernet("01:00:5e:00:00:fb", macC), a, b, c), "link-local")

		tells(t, c, overlay.LinuxFrame("IGMPv2 leave"), a, b, c)
		time.Sleep(10 * time.Second)
		require.Empty(t, a.sw.Status().Groups)
		require.Equal(t, []peer.Name{peerB, peerC}, tells(t, a, data, a, b, c))
	})
}

// TestGroupsWithOldPeer: B says nothing, as a peer of Weave Net, and gets everything.
func TestGroupsWithOldPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := snoopingLine(t, true)
		time.Sleep(settled)
		require.Equal(t, []peer.Name{peerB}, a.sw.Status().AllGroups)
		require.Empty(t, b.sw.Status().AllGroups, "it does not snoop")
		require.Empty(t, b.sw.Status().Groups)
		require.Equal(t, []peer.Name{peerB}, tells(t, a, overlay.LinuxFrame("IGMPv3 join"), a, b, c),
			"B floods it, as a router may be there; C knows that there is none, and what it is")
		time.Sleep(time.Second)
		require.Equal(t, []peer.Name{peerB, peerC}, tells(t, a, ethernet(linuxGroup, macA), a, b, c),
			"only A is a member, but B gets all and floods it on")
		require.Equal(t, []peer.Name{peerA, peerB}, tells(t, c, ethernet(linuxGroup, macC), a, b, c))
	})
}

// TestGroupsWithRouter: a host with a multicast router gets all groups, and all reports.
func TestGroupsWithRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := snoopingLine(t, false)
		time.Sleep(settled)
		require.Equal(t, []peer.Name{peerB, peerC}, tells(t, a, overlay.RouterFrame(), a, b, c), "queries go to everybody")
		time.Sleep(time.Second)
		require.Equal(t, []peer.Name{peerA}, c.sw.Status().AllGroups)
		require.Equal(t, []peer.Name{peerA}, tells(t, c, overlay.LinuxFrame("MLDv1 join"), a, b, c))
		time.Sleep(time.Second)
		require.Equal(t, []peer.Name{peerA, peerB}, tells(t, c, ethernet("33:33:00:01:02:05", macC), a, b, c))
		time.Sleep(300 * time.Second)
		require.Empty(t, c.sw.Status().AllGroups, "it has not been heard of since")
	})
}

// TestStationsAreAsked at once and then every 125 s; only at the port.
func TestStationsAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		port, carrier := overlaytest.NewPort("mem0"), &stub{name: "x"}
		sw, err := overlay.NewSwitch(overlay.SwitchConfig{
			Self: peerA, Overlays: []overlay.Overlay{carrier}, Port: port, Announce: func(overlay.Memberships) {},
		})
		require.NoError(t, err)
		link(t, sw, peerB, "x")
		sw.Forwarder().SetRoutes(starRoutes())
		run(t, sw)
		synctest.Wait()
		require.Len(t, port.Written(), 2)
		time.Sleep(33 * time.Second)
		require.Len(t, port.Written(), 4, "again, in case the first were lost")
		time.Sleep(125 * time.Second)
		require.Len(t, port.Written(), 6)
		for len(port.Written()) > 0 {
			require.True(t, overlay.IsMembership(<-port.Written()))
		}
		require.Empty(t, carrier.last().take())
	})
}

// TestAnnouncementsAreFew, however fast stations join.
func TestAnnouncementsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		port, said := overlaytest.NewPort("mem0"), make(chan overlay.Announcement, 1000)
		sw, err := overlay.NewSwitch(overlay.SwitchConfig{
			Self: peerA, Overlays: []overlay.Overlay{&stub{name: "x"}}, Port: port,
			Announce: func(m overlay.Memberships) { said <- m[peerA] },
		})
		require.NoError(t, err)
		run(t, sw)
		time.Sleep(settled)
		for len(said) > 0 {
			<-said
		}
		start := time.Now()
		for i := range 300 {
			require.NoError(t, port.Inject(overlay.JoinFrame(netip.AddrFrom4([4]byte{239, 7, byte(i >> 8), byte(i)}))))
			synctest.Wait()
			if i == 0 {
				require.Len(t, said, 1, "at once")
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		require.LessOrEqual(t, len(said), 1+6*int(time.Since(start)/time.Second))
		var last overlay.Announcement
		for len(said) > 0 {
			next := <-said
			require.Greater(t, next.Version, last.Version)
			last = next
		}
		require.Len(t, last.Groups, 300)
		require.False(t, last.All)

		time.Sleep(settled + 500*time.Millisecond)
		ahead := last.Version + 1e9
		sw.Forwarder().SetMemberships(overlay.Memberships{peerA: {Version: ahead}})
		synctest.Wait()
		last.Version = ahead + 1
		require.Len(t, said, 1)
		require.Equal(t, last, <-said, "what others take for ours is set right at once")
	})
}

// TestReportsWithoutSnooping go like other frames to groups.
func TestReportsWithoutSnooping(t *testing.T) {
	f := overlay.NewForwarder(peerA)
	f.SetRoutes(starRoutes())
	join := overlay.LinuxFrame("IGMPv2 join")
	require.Equal(t, overlay.Decision{Source: peerA, Flood: []peer.Name{peerB, peerC}}, f.CapturedFrame(now, join))
	require.Equal(t, overlay.Decision{Source: peerB, Local: true, Flood: []peer.Name{peerC}}, f.ReceivedFrame(now, peerB, peerA, join))
	require.Equal(t, overlay.DropShort, f.CapturedFrame(now, join[:13]).Drop)
	require.Equal(t, overlay.DropShort, f.ReceivedFrame(now, peerB, peerA, join[:13]).Drop)
}

// Memberships are shared over the gossip of the mesh; then frames to a group go to its members only.
func ExampleMemberships() {
	self, one, two := peer.MustParse("02:00:00:00:00:01"), peer.MustParse("02:00:00:00:00:02"), peer.MustParse("02:00:00:00:00:03")
	toEach := map[peer.Name]peer.Name{one: one, two: two}
	f := overlay.NewForwarder(self)
	f.SetRoutes(overlaytest.Routes{
		Hops:   toEach,
		Floods: map[peer.Name][]peer.Name{self: {one, two}},
		Trees:  map[peer.Name]map[peer.Name]peer.Name{self: toEach},
	})
	cameras, _ := overlay.ParseMAC("01:00:5e:01:02:03")

	known, _ := overlay.Memberships{}.Merge(overlay.Memberships{one: {Version: 1, Groups: []overlay.MAC{cameras}}})
	f.SetMemberships(known)
	fmt.Println(f.Outbound(cameras).Flood)

	known, _ = known.Merge(overlay.Memberships{two: {Version: 1}}) // now it has said that it wants nothing
	f.SetMemberships(known)
	fmt.Println(f.Outbound(cameras).Flood)
	// Output:
	// [02:00:00:00:00:02 02:00:00:00:00:03]
	// [02:00:00:00:00:02]
}

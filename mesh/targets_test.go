package mesh

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

func host6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)})
}

// inMemory6 is inMemory for a host of the IPv6 part of the network.
func inMemory6(n *meshtest.Network, i int, targets ...string) Config {
	c := inMemory(n, i)
	c.Network, c.Listen, c.Targets = n.Host(host6(i)), netip.AddrPortFrom(host6(i), 6783), targets
	return c
}

// connected returns the peers a router is connected to, with their addresses.
func connected(r *running) map[peer.Name]netip.Addr {
	all := map[peer.Name]netip.Addr{}
	for _, c := range r.Status().Connections {
		all[c.Name] = c.Address.Addr()
	}
	return all
}

// TestTargetsByName: a target that is a host name is resolved anew for each attempt, and all its addresses are tried, of
// both families.
func TestTargetsByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		n.SetName("seed", host(71), host6(71)) // nobody is there
		one := start(t, inMemory6(n, 1, "seed"))
		time.Sleep(10 * time.Second)
		require.Empty(t, connected(one))
		require.Equal(t, "waiting", one.Status().Targets[0].State)

		n.SetName("seed", host(71), host6(2))
		two := start(t, inMemory6(n, 2))
		time.Sleep(retryDirectMax * 3 / 2)
		require.Equal(t, map[peer.Name]netip.Addr{name(2): host6(2)}, connected(one))
		require.Equal(t, "seed:6783", one.Status().Targets[0].Address)
		require.Equal(t, 1, len(one.Status().Targets), "and it is not dialled by address besides")

		two.stop() // it moves, to an address of the other family
		n.SetName("seed", host6(2), host(3))
		three := start(t, inMemory(n, 3))
		time.Sleep(retryDirectMax * 3 / 2)
		require.Equal(t, map[peer.Name]netip.Addr{name(3): host(3)}, connected(one))
		one.stop()
		three.stop()
	})
}

// emptyNames is a network in which the name "nobody" stands for no address, and that is no error.
type emptyNames struct{ Network }

func (n emptyNames) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if host == "nobody" {
		return nil, nil
	}
	return n.Network.Resolve(ctx, host)
}

// TestTargetsWithoutAddress: a name that stands for nothing is a reason like others, and several reasons are one line.
func TestTargetsWithoutAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		n.SetName("gone", host(71), host(72))
		c := inMemory6(n, 1, "nobody", "gone")
		c.Network = emptyNames{c.Network}
		one := start(t, c)
		time.Sleep(time.Second)
		reasons := map[string]string{}
		for _, target := range one.Status().Targets {
			reasons[target.Address] = target.Reason
		}
		require.Contains(t, reasons["nobody:6783"], "no addresses for nobody")
		require.Contains(t, reasons["gone:6783"], host(71).String())
		require.Contains(t, reasons["gone:6783"], host(72).String())
		require.NotContains(t, reasons["gone:6783"], "\n")
		one.stop()
	})
}

// TestIPv6Mesh: peers find one another by addresses of IPv6 that others tell of, over both wires.
func TestIPv6Mesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		rs := []*running{start(t, inMemory6(n, 1))}
		for i := 2; i <= 4; i++ {
			c := inMemory6(n, i, host6(i-1).String())
			c.NoDeltas = i == 3
			rs = append(rs, start(t, c))
		}
		time.Sleep(time.Minute)
		for i, r := range rs {
			all := connected(r)
			require.Len(t, all, 3)
			for k := range rs {
				if k != i {
					require.Equal(t, host6(k+1), all[name(k+1)])
				}
			}
		}
		for _, r := range rs {
			r.stop()
		}
	})
}

// TestIPv6OverTCP is the same with the real network of this host.
func TestIPv6OverTCP(t *testing.T) {
	c := loopback(1)
	c.Listen = netip.MustParseAddrPort("[::1]:0")
	l, err := tcpNetwork{}.Listen(t.Context(), c.Listen)
	if err != nil {
		t.Skip("no IPv6 on this host: ", err)
	}
	require.NoError(t, l.Close())
	one := start(t, c)
	eventually(t, "listening", func() bool { return one.Addr().IsValid() })
	c.Name, c.Targets = name(2), []string{one.Addr().String()}
	two := start(t, c)
	eventually(t, "both know both", knows(2, one, two))
	require.Equal(t, netip.IPv6Loopback(), connected(two)[name(1)])
}

// TestForget: a target that is forgotten is not dialled any more; a connection that came of it stays as long as it lasts.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		c := inMemory(n, 1, 2, 77)
		c.NoDiscovery = true
		one, two := start(t, c), start(t, inMemory(n, 2))
		time.Sleep(10 * time.Second)
		given, live := one.Targets()
		require.Equal(t, []int{2, 2}, []int{given, live})
		one.Forget(host(2).String(), host(77).String(), "unheard-of")
		given, _ = one.Targets()
		require.Zero(t, given)
		time.Sleep(time.Minute)
		require.Len(t, one.Status().Connections, 1)
		for _, target := range one.Status().Targets {
			require.Equal(t, "connected", target.State, target.Address)
		}
		n.Reset(host(1), host(2))
		time.Sleep(10 * time.Minute)
		require.Empty(t, one.Status().Connections)
		require.Empty(t, one.Status().Targets)
		require.NoError(t, one.Connect(false, host(2).String()))
		time.Sleep(time.Second)
		require.Len(t, one.Status().Connections, 1)
		one.stop()
		two.stop()
	})
}

// TestNoDiscovery: who does not discover dials its targets only, and takes whoever comes.
func TestNoDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		var rs []*running
		for i := 1; i <= 4; i++ { // a star around the first
			c := inMemory(n, i, 1)
			c.NoDiscovery = true
			rs = append(rs, start(t, c))
		}
		time.Sleep(5 * time.Minute)
		require.True(t, knows(4, rs...)())
		require.Len(t, connected(rs[0]), 3)
		for _, r := range rs[1:] {
			require.Equal(t, map[peer.Name]netip.Addr{name(1): host(1)}, connected(r))
		}
		five := start(t, inMemory(n, 5, 1))
		time.Sleep(time.Minute)
		require.Len(t, connected(five), 4, "it discovers, and is let in")
		for _, r := range append(rs, five) {
			r.stop()
		}
	})
}

// TestTrustedSubnets: frames go in the clear if both ends trust the other's address, and only then. The connection itself is
// sealed all the same.
func TestTrustedSubnets(t *testing.T) {
	trusting, wary := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	for _, tt := range []struct {
		subnets [2][]netip.Prefix
		clear   bool
	}{
		{[2][]netip.Prefix{trusting, trusting}, true}, {[2][]netip.Prefix{trusting, wary}, false},
		{[2][]netip.Prefix{wary, trusting}, false}, {[2][]netip.Prefix{nil, nil}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.NewNetwork(time.Millisecond)
			var rs []*running
			var fakes []*fakeOverlay
			for i := range 2 {
				f := &fakeOverlay{}
				sw, err := overlay.NewSwitch(overlay.SwitchConfig{Self: name(i + 1), Overlays: []overlay.Overlay{f}})
				require.NoError(t, err)
				c := inMemory(n, i+1, 1)
				c.Switch, c.Password, c.TrustedSubnets = sw, []byte("secret"), tt.subnets[i]
				rs, fakes = append(rs, start(t, c)), append(fakes, f)
			}
			time.Sleep(10 * time.Second)
			for i, r := range rs {
				require.Equal(t, tt.clear, fakes[i].seen().Key == nil)
				conn := r.Status().Connections[0]
				require.True(t, conn.Sealed)
				require.Equal(t, !tt.clear, conn.Encrypted)
				require.Equal(t, tt.subnets[i], r.Status().TrustedSubnets)
			}
			for _, r := range rs {
				r.stop()
			}
		})
	}
}

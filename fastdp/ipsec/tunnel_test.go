package ipsec_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/fastdp/ipsec/ipsectest"
)

func TestLifeOfATunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		requireBoth(t, a, b, ipsectest.Unsent)
		neverExposed(t, a, b)
		c := connect(t, a, b, link{key: 1})
		c.requireReady()
		requireBoth(t, a, b, ipsectest.Encrypted)
		c.close()
		requireBoth(t, a, b, ipsectest.Encrypted)
		after(ipsec.DefaultHold)
		requireBoth(t, a, b, ipsectest.Unsent)
		for _, h := range []*host{a, b} {
			policies, associations, err := h.kernel.List()
			require.NoError(t, err)
			require.Empty(t, associations)
			require.Len(t, policies, 4, "the blocks stay")
			require.Empty(t, h.p.Status().Tunnels)
		}
	})
}

// While one end is set up and the other is not, nothing leaves.
func TestHalfWayIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		c := &connection{t: t, closed: true}
		c.ends[0] = c.protect(a, b, 0, [32]byte{1}, false)
		synctest.Wait()
		requireBoth(t, a, b, ipsectest.Unsent)
		require.Empty(t, c.reports(0))
		c.ends[0].Close()
	})
}

func TestWrongKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		neverExposed(t, a, b)
		connect(t, a, b, link{key: 1, other: 2})
		synctest.Wait()
		requireBoth(t, a, b, ipsectest.Refused)
	})
}

func TestForeignSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		other := &host{t: t, name: nameB, addr: netip.MustParseAddr("192.168.77.3"), kernel: ipsectest.NewKernel()}
		connect(t, a, b, link{key: 1}).requireReady()
		require.Equal(t, ipsectest.Refused, packet(other, a).Outcome, "clear, from an unknown address")
		other.addr = b.addr
		require.Equal(t, ipsectest.Refused, packet(other, a).Outcome, "clear, from the address of the peer")
		trace := ipsectest.Send(b.kernel, a.kernel, ipsectest.Packet{Src: b.addr, Dst: a.addr, Port: tunnelPort, Rewritten: netip.MustParseAddr("192.168.77.9")})
		require.Equal(t, ipsectest.Refused, trace.Outcome, "encrypted by the peer, its source rewritten")
	})
}

func TestAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		allow := func(from, to *host) fastdp.Protection {
			p, err := from.p.Allow(fastdp.Tunnel{Self: from.name, Remote: to.name, Local: from.addr, RemoteAddr: to.addr, Port: tunnelPort})
			require.NoError(t, err)
			return p
		}
		pa, pb := allow(a, b), allow(b, a)
		requireBoth(t, a, b, ipsectest.Plain)
		require.False(t, pa.Status().Encrypted)
		// An encrypted tunnel between the same addresses goes first, also when a clear one is younger.
		c := connect(t, a, b, link{key: 1})
		c.requireReady()
		requireBoth(t, a, b, ipsectest.Encrypted)
		younger := allow(a, b)
		requireBoth(t, a, b, ipsectest.Encrypted)
		require.NotEmpty(t, younger.Status().Reason)
		younger.Close()
		c.close()
		requireBoth(t, a, b, ipsectest.Plain)
		pa.Close()
		pb.Close()
		after(ipsec.DefaultHold)
		requireBoth(t, a, b, ipsectest.Unsent)
	})
}

// Connections replace each other in every order; after the first is ready, no packet is ever lost or in the clear.
func TestFlappingNeverGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		a, b := twoHosts(t, ipsec.Config{})
		open := []*connection{connect(t, a, b, link{key: 1})}
		open[0].requireReady()
		check := func() {
			if packet(a, b).Outcome != ipsectest.Encrypted || packet(b, a).Outcome != ipsectest.Encrypted {
				t.Error("a packet was lost, or in the clear")
			}
		}
		a.kernel.OnChange(check)
		b.kernel.OnChange(check)
		for i := range 200 {
			open = append(open, connect(t, a, b, link{key: byte(i)}))
			after(time.Duration(random.IntN(3000)) * time.Millisecond)
			for len(open) > 1+random.IntN(3) {
				k := random.IntN(len(open))
				if open[k].ends[0].Status().Encrypted && len(open) == 1 {
					break
				}
				open[k].close()
				open = append(open[:k], open[k+1:]...)
			}
			check()
		}
		a.kernel.OnChange(nil)
		b.kernel.OnChange(nil)
		for _, c := range open {
			c.close()
		}
		after(ipsec.DefaultHold)
		_, associations, err := a.kernel.List()
		require.NoError(t, err)
		require.Empty(t, associations)
	})
}

// A connection that loses to an older one takes nothing from it, whoever closes first.
func TestOlderStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		older := connect(t, a, b, link{key: 1})
		older.requireReady()
		spi := packet(a, b).SPI
		younger := connect(t, a, b, link{key: 2})
		younger.requireReady()
		require.NotEqual(t, spi, packet(a, b).SPI, "the younger one is used")
		younger.close()
		requireBoth(t, a, b, ipsectest.Encrypted)
		require.Equal(t, spi, packet(a, b).SPI, "the older one is used again")
		after(2 * ipsec.DefaultHold)
		requireBoth(t, a, b, ipsectest.Encrypted)
	})
}

func TestReaddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		neverExposed(t, a, b)
		before := connect(t, a, b, link{key: 1})
		before.requireReady()
		old := b.addr
		before.close()
		b.addr = netip.MustParseAddr("192.168.78.2")
		connect(t, a, b, link{key: 2}).requireReady()
		requireBoth(t, a, b, ipsectest.Encrypted)
		after(ipsec.DefaultHold)
		requireBoth(t, a, b, ipsectest.Encrypted)
		b.addr = old
		requireBoth(t, a, b, ipsectest.Unsent)
	})
}

func TestHostileAnnouncements(t *testing.T) {
	for name, payloads := range map[string][][]byte{
		"empty":          {{}},
		"short":          {make([]byte, 63)},
		"long":           {make([]byte, 65)},
		"reserved SPI":   {make([]byte, 64)},
		"repeated nonce": {announcement(1, 1000), announcement(1, 1001)},
		"repeated SPI":   {announcement(1, 1000), announcement(2, 1000)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := twoHosts(t, ipsec.Config{})
				neverExposed(t, a, b)
				c := &connection{t: t, closed: true}
				p := c.protect(a, b, 0, [32]byte{1}, false)
				for _, payload := range payloads {
					p.Control(payload)
				}
				synctest.Wait()
				reports := c.reports(0)
				require.Error(t, reports[len(reports)-1])
				require.NotEmpty(t, p.Status().Reason)
				p.Control(announcement(3, 3000))
				p.Close()
				p.Close()
				p.Control(announcement(4, 4000))
				after(ipsec.DefaultHold)
				_, associations, err := a.kernel.List()
				require.NoError(t, err)
				require.Empty(t, associations)
			})
		})
	}
}

func announcement(nonce byte, spi uint16) []byte {
	b := make([]byte, 64)
	b[0], b[34], b[35] = nonce, byte(spi>>8), byte(spi)
	return b
}

// A kernel that fails at any request leaves nothing in the clear and nothing behind.
func TestKernelFails(t *testing.T) {
	for fails := range 12 {
		synctest.Test(t, func(t *testing.T) {
			a, b := twoHosts(t, ipsec.Config{})
			neverExposed(t, a, b)
			n := 0
			broken := errors.New("broken")
			a.kernel.OnRequest(func(string) error {
				if n++; n == fails+1 {
					return broken
				}
				return nil
			})
			key := [32]byte{1}
			p, err := a.p.Protect(fastdp.Tunnel{Self: a.name, Remote: b.name, Local: a.addr, RemoteAddr: b.addr, Port: tunnelPort, Key: &key},
				func([]byte) error { return nil }, func(error) {})
			if err == nil {
				p.Control(announcement(1, 1000))
				synctest.Wait()
				p.Close()
			} else {
				require.ErrorIs(t, err, broken)
			}
			after(ipsec.DefaultHold + 2*ipsec.DefaultSweep)
			policies, associations, err := a.kernel.List()
			require.NoError(t, err)
			require.Len(t, policies, 4, "request %d", fails)
			require.Empty(t, associations, "request %d", fails)
		})
	}
}

func TestSendFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		key := [32]byte{1}
		broken := errors.New("broken")
		_, err := a.p.Protect(fastdp.Tunnel{Local: a.addr, RemoteAddr: b.addr, Port: tunnelPort, Key: &key},
			func([]byte) error { return broken }, func(error) {})
		require.ErrorIs(t, err, broken)
		_, associations, err := a.kernel.List()
		require.NoError(t, err)
		require.Empty(t, associations)
	})
}

func TestUnusableTunnels(t *testing.T) {
	p, err := ipsec.New(ipsec.Config{Kernel: ipsectest.NewKernel()})
	require.NoError(t, err)
	six := netip.MustParseAddr("fd77::1")
	for _, tunnel := range []fastdp.Tunnel{
		{}, {Local: addrA, Port: tunnelPort}, {Local: addrA, RemoteAddr: addrB}, {Local: addrA, RemoteAddr: six, Port: tunnelPort},
		{Local: addrA, RemoteAddr: addrA, Port: tunnelPort}, {Local: six.WithZone("x"), RemoteAddr: six, Port: tunnelPort},
	} {
		_, err := p.Allow(tunnel)
		require.Error(t, err, tunnel)
	}
	_, err = p.Allow(fastdp.Tunnel{Local: addrA, RemoteAddr: addrB, Port: tunnelPort, Key: &[32]byte{}})
	require.Error(t, err)
	_, err = p.Protect(fastdp.Tunnel{Local: addrA, RemoteAddr: addrB, Port: tunnelPort}, func([]byte) error { return nil }, func(error) {})
	require.Error(t, err)
	_, err = ipsec.New(ipsec.Config{})
	require.Error(t, err)
}

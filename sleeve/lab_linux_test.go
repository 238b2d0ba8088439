package sleeve_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/sleeve"
)

// hosts are two peers on either side of a router, whose link to B takes smaller packets.
//
//	a 10.0.1.1 --- 10.0.1.2 r 10.0.2.2 --- 10.0.2.1 b
//	          MTU 1500           MTU 1300
type hosts struct {
	a, b, r  *lab.Host
	toA, toB *lab.Link // of the router
}

func newHosts(t *testing.T) *hosts {
	return newHostsWith(t, []string{"10.0.1.1/24", "10.0.1.2/24", "10.0.2.1/24", "10.0.2.2/24"}, "ipv4/ip_forward")
}

// newHosts6 is newHosts with an underlay of IPv6 alone.
func newHosts6(t *testing.T) *hosts {
	return newHostsWith(t, []string{"fd01::1/64", "fd01::2/64", "fd02::1/64", "fd02::2/64"}, "ipv6/conf/all/forwarding")
}

func newHostsWith(t *testing.T, addrs []string, forwarding string) *hosts {
	l := labtest.New(t)
	h := &hosts{}
	for name, host := range map[string]**lab.Host{"a": &h.a, "b": &h.b, "r": &h.r} {
		var err error
		*host, err = l.Host(name)
		require.NoError(t, err)
		err = (*host).Do(func() error { // nobody else has our addresses
			return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
		})
		if !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			require.NoError(t, err)
		}
	}
	prefix := netip.MustParsePrefix
	var err error
	h.toA, err = l.Link(h.a, h.r, lab.LinkConfig{A: prefix(addrs[0]), B: prefix(addrs[1])})
	require.NoError(t, err)
	h.toB, err = l.Link(h.b, h.r, lab.LinkConfig{MTU: 1300, A: prefix(addrs[2]), B: prefix(addrs[3])})
	require.NoError(t, err)
	require.NoError(t, h.r.Do(func() error { return os.WriteFile("/proc/sys/net/"+forwarding, []byte("1"), 0) }))
	for gateway, host := range map[string]*lab.Host{addrs[1]: h.a, addrs[3]: h.b} {
		require.NoError(t, host.Do(func() error {
			return netlink.RouteAdd(&netlink.Route{Gw: prefix(gateway).Addr().AsSlice()})
		}))
	}
	return h
}

// end opens a peer's socket on all addresses of a host.
func end(t *testing.T, h *lab.Host, self overlaytest.End) overlaytest.End {
	t.Helper()
	var socket *sleeve.Socket
	require.NoError(t, h.Do(func() (err error) {
		socket, err = sleeve.Listen(netip.AddrPortFrom(netip.Addr{}, self.Addr.Port()))
		return err
	}))
	return newEnd(t, self.Self, self.Addr, socket)
}

// TestHostsPathMTU finds the MTU of a path whose bottleneck the sender learns of by the router's ICMP; and looks at the
// packets in passing.
func TestHostsPathMTU(t *testing.T) {
	for name, key := range map[string]*[32]byte{"clear": nil, "sealed": testKey} {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t)
			a := end(t, h.a, overlaytest.End{Self: nameA, Addr: netip.MustParseAddrPort("10.0.1.1:6783")})
			b := end(t, h.b, overlaytest.End{Self: nameB, Addr: netip.MustParseAddrPort("10.0.2.1:6783")})
			c := overlaytest.Connect(a, b, 99, key)
			seen := watch(t, h.r)
			require.NoError(t, c.Up())
			t.Cleanup(c.Close)
			require.Equal(t, overlay.Established, (<-c.A.Events).Kind)
			require.Equal(t, overlay.Established, (<-c.B.Events).Kind)
			require.Eventually(t, func() bool {
				return c.A.Link.Status().MTU == mtuFor(c.A, 1300) && c.B.Link.Status().MTU == mtuFor(c.B, 1300)
			}, 20*time.Second, 10*time.Millisecond, "%+v", c.A.Link.Status())

			full, cut := frame(t, mtuFor(c.A, 1300)+14, true), frame(t, 5000, false)
			c.A.Link.Send([]overlay.Frame{full})
			require.Equal(t, full, <-c.B.Frames)
			require.Eventually(t, func() bool { // once outer fragments are trusted it arrives whole
				c.A.Link.Send([]overlay.Frame{cut})
				select {
				case f := <-c.B.Frames:
					return len(f.Data) == len(cut.Data)
				case <-time.After(time.Second):
					return false
				}
			}, 10*time.Second, 10*time.Millisecond)
			requirePorts(t, seen)
		})
	}
}

// watch opens a socket on the router that sees every packet. It is read later.
func watch(t *testing.T, r *lab.Host) *os.File {
	t.Helper()
	var fd int
	require.NoError(t, r.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0x0008) // IPv4 in network order
		return err
	}))
	f := os.NewFile(uintptr(fd), "packets")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// requirePorts checks the UDP packets that passed: all have the port on both sides, small ones of channel D the bit.
func requirePorts(t *testing.T, seen *os.File) {
	t.Helper()
	require.NoError(t, seen.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	whole, fragments := 0, 0
	b := make([]byte, 2000)
	for {
		n, err := seen.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		require.NoError(t, err)
		if n < 28 || b[9] != 17 {
			continue
		}
		switch flags := uint16(b[6])<<8 | uint16(b[7]); {
		case flags&0x3fff != 0:
			require.Zero(t, flags&0x4000, "a fragment that must not be cut")
			fragments++
		default:
			require.Equal(t, []byte{0x1a, 0x7f, 0x1a, 0x7f}, b[20:24], "6783 to 6783")
			if n == 20+8+42 || n == 20+8+66 {
				require.EqualValues(t, 0x4000, flags, "heartbeats must not be cut")
			}
			whole++
		}
	}
	require.NotZero(t, whole)
	require.NotZero(t, fragments)
}

package sleeve_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
)

// TestHosts2 carries frames and super-frames over real sockets and a router to a smaller MTU, which is found.
func TestHosts2(t *testing.T) {
	for name, key := range map[string]*[32]byte{"clear": nil, "sealed": testKey} {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t)
			a := second(end(t, h.a, overlaytest.End{Self: nameA, Addr: netip.MustParseAddrPort("10.0.1.1:6783")}))
			b := second(end(t, h.b, overlaytest.End{Self: nameB, Addr: netip.MustParseAddrPort("10.0.2.1:6783")}))
			c := overlaytest.Connect(a, b, 99, key)
			require.NoError(t, c.Up())
			t.Cleanup(c.Close)
			require.Equal(t, overlay.Established, (<-c.A.Events).Kind)
			require.Equal(t, overlay.Established, (<-c.B.Events).Kind)
			require.Eventually(t, func() bool {
				return c.A.Link.Status().MTU == mtu2(c.A, 1300) && c.B.Link.Status().MTU == mtu2(c.B, 1300)
			}, 20*time.Second, 10*time.Millisecond, "%+v", c.A.Link.Status())

			super := frame(t, 60000, true)
			super.Data[23], super.Data[34+12] = 6, 5<<4 // TCP, with a header of 20 bytes
			super.Segments = overlay.Segments{Protocol: overlay.TCP4, Size: 1100, Transport: 34}
			full := frame(t, mtu2(c.A, 1300)+14, true)
			c.A.Link.Send([]overlay.Frame{full, super, full})
			var got [][]byte
			for want := 2 + 55; len(got) < want; {
				select {
				case f := <-c.B.Frames:
					got = append(got, segments(t, f)...)
				case <-time.After(10 * time.Second):
					require.Fail(t, "frames lost", "%d of %d; %+v", len(got), want, c.B.Link.Status())
				}
			}
			require.Equal(t, append(append([][]byte{full.Data}, segments(t, super)...), full.Data), got)
			require.NotZero(t, c.A.Link.Status().RTT)
		})
	}
}

// segments returns the complete frames that a frame stands for.
func segments(t *testing.T, f overlay.Frame) (out [][]byte) {
	t.Helper()
	s, err := overlay.NewSegmenter(f.Data, f.Segments)
	require.NoError(t, err)
	for n := s.NextLen(); n > 0; n = s.NextLen() {
		b := make([]byte, n)
		s.Next(b)
		out = append(out, b)
	}
	return out
}

// TestLongFrames2 sends frames that are too long for the path, and whose senders cannot be told, over IPv4 and IPv6: they arrive
// whole.
func TestLongFrames2(t *testing.T) {
	for name, c := range map[string]struct {
		hosts func(*testing.T) *hosts
		a, b  string
	}{"IPv4": {newHosts, "10.0.1.1", "10.0.2.1"}, "IPv6": {newHosts6, "fd01::1", "fd02::1"}} {
		t.Run(name, func(t *testing.T) {
			h := c.hosts(t)
			a := second(end(t, h.a, overlaytest.End{Self: nameA, Addr: netip.AddrPortFrom(netip.MustParseAddr(c.a), 6783)}))
			b := second(end(t, h.b, overlaytest.End{Self: nameB, Addr: netip.AddrPortFrom(netip.MustParseAddr(c.b), 6783)}))
			conn := overlaytest.Connect(a, b, 99, testKey)
			require.NoError(t, conn.Up())
			t.Cleanup(conn.Close)
			require.Equal(t, overlay.Established, (<-conn.A.Events).Kind)
			require.Equal(t, overlay.Established, (<-conn.B.Events).Kind)
			flooded := frame(t, 9000, true)
			flooded.Flooded = true
			other := frame(t, 3000, false)
			other.Data[12], other.Data[13] = 0x88, 0xb5
			for _, f := range []overlay.Frame{flooded, other} {
				require.Eventually(t, func() bool { // the first may be lost to a router that tells what fits
					conn.A.Link.Send([]overlay.Frame{f})
					select {
					case got := <-conn.B.Frames:
						return bytes.Equal(f.Data, got.Data)
					case <-time.After(100 * time.Millisecond):
						return false
					}
				}, 20*time.Second, time.Millisecond)
			}
		})
	}
}

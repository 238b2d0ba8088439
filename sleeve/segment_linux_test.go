package sleeve

import (
	"bytes"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestSegments sends runs of datagrams of many sizes with the offload and without: each arrives by itself, in order.
func TestSegments(t *testing.T) {
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	for _, without := range []bool{false, true} {
		var sockets [2]*Socket
		for i := range sockets {
			sockets[i], err = Listen(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}), 0))
			require.NoError(t, err)
			defer func() { _ = sockets[i].Close() }()
		}
		if without {
			for _, e := range sockets[0].endpoints {
				e.noSegment.Store(&errNoChecksums)
			}
		}
		var msgs []Message
		for i, size := range []int{1400, 1400, 1400, 300, 300, 1400, 20, 20, 20, 20, 19, 1, 1400, 1400, 1400, 1400} {
			msgs = append(msgs, Message{
				Data: bytes.Repeat([]byte{byte(i)}, size), Remote: sockets[1].LocalAddr(), DontFragment: i != 14, Class: uint8(i / 2),
			})
		}
		for rest := msgs; len(rest) > 0; {
			n, err := sockets[0].WriteBatch(rest)
			require.NoError(t, err)
			require.NotZero(t, n)
			rest = rest[n:]
		}
		// One remote's datagrams come from one queue.
		type arrival struct {
			data  []byte
			class uint8
		}
		got := make(chan arrival, len(msgs))
		for queue := range sockets[1].Queues() {
			go func() {
				buf := make([]Message, 4)
				for i := range buf {
					buf[i].Data = make([]byte, MaxDatagram)
				}
				for {
					n, err := sockets[1].ReadBatch(queue, buf)
					if err != nil {
						return
					}
					for i := range n {
						buf[i].each(func(_ netip.AddrPort, b []byte) { got <- arrival{bytes.Clone(b), buf[i].Class} })
					}
				}
			}()
		}
		for i := range msgs {
			require.Equal(t, arrival{msgs[i].Data, msgs[i].Class}, <-got, "%d, without: %t", i, without)
		}
		offloads := sockets[0].Offloads()
		require.Equal(t, without, offloads["UDP_SEGMENT"] != "in use", offloads)
		if without {
			require.Contains(t, offloads["UDP_SEGMENT"], errNoChecksums.Error())
		}
		require.Equal(t, "in use", offloads["ECN"])
		require.Contains(t, offloads, "UDP_GRO")
	}
}

func TestRunLength(t *testing.T) {
	run := func(sizes ...int) int {
		var msgs []Message
		for _, n := range sizes {
			msgs = append(msgs, Message{Data: make([]byte, n), DontFragment: true})
		}
		return runLength(msgs)
	}
	require.Equal(t, 3, run(100, 100, 99, 99))
	require.Equal(t, 1, run(100, 101))
	require.Equal(t, 1, run(0, 0))
	require.Equal(t, 2, run(100, 100, 0))
	require.Equal(t, 2, run(30000, 30000, 30000))
	many := make([]int, 100)
	for i := range many {
		many[i] = 10
	}
	require.Equal(t, maxSegments, run(many...))
	classes := []Message{{Data: []byte{1}, DontFragment: true}, {Data: []byte{1}, DontFragment: true, Class: 2}}
	require.Equal(t, 1, runLength(classes))
	other := []Message{{Data: []byte{1}, DontFragment: true}, {Data: []byte{1}, DontFragment: true, Remote: netip.MustParseAddrPort("10.0.0.1:1")}}
	require.Equal(t, 1, runLength(other))
}

// FuzzGetControl reads control messages as a kernel may lay them out, or not.
func FuzzGetControl(f *testing.F) {
	b := make([]byte, controlLen)
	n := putNumber(b, unix.SOL_UDP, unix.UDP_GRO, 1400, 4)
	n += putClass(b[n:], 0xb8, netip.IPv6Loopback())
	f.Add(b[:n])
	f.Add(b[:n-3])
	f.Add(b[:n/2+1])
	f.Fuzz(func(t *testing.T, b []byte) {
		aligned := make([]uint64, len(b)/8+1)
		c := unsafe.Slice((*byte)(unsafe.Pointer(&aligned[0])), len(aligned)*8)[:len(b):len(b)]
		copy(c, b)
		getControl(c)
	})
}

func TestGetControl(t *testing.T) {
	for _, remote := range []netip.Addr{netip.IPv6Loopback(), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.1")} {
		b := make([]byte, controlLen)
		n := putClass(b, 0xb9, remote)
		n += putNumber(b[n:], unix.SOL_UDP, unix.UDP_GRO, 1400, 4)
		segment, class := getControl(b[:n])
		require.Equal(t, 1400, segment)
		require.EqualValues(t, 0xb9, class)
	}
	require.Zero(t, putClass(nil, 0, netip.IPv6Loopback()), "nothing to say")
}

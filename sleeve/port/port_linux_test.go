package port_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/sleeve/port"
)

func TestMain(m *testing.M) {
	labtest.Enter()
	goleak.VerifyTestMain(m)
}

const mtu = 1400

// tap gives a host a TAP device with addresses.
func tap(t *testing.T, h *lab.Host, index int) overlay.Port {
	t.Helper()
	var p overlay.Port
	err := h.Do(func() error {
		tap, err := port.OpenTAP(port.TAPConfig{Name: "tap0", MTU: mtu})
		if err != nil {
			return err
		}
		p = tap
		return address("tap0", index)
	})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		labtest.Unavailable(t, err)
	}
	require.NoError(t, err)
	return p
}

// packet gives a host a veth pair with addresses at one end, and opens a port on the other.
//
//	system --- inner ===veth=== outer --- port
func packet(t *testing.T, h *lab.Host, index int) overlay.Port {
	t.Helper()
	var p overlay.Port
	require.NoError(t, h.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "inner", MTU: mtu}, PeerName: "outer"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		outer, err := netlink.LinkByName("outer")
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.LinkSetMTU(outer, mtu), netlink.LinkSetUp(outer), address("inner", index)); err != nil {
			return err
		}
		socket, err := port.OpenPacket(port.PacketConfig{Interface: "outer"})
		p = socket
		return err
	}))
	return p
}

func address(name string, index int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, format := range []string{"10.9.0.%d/24", "fd09::%d/64"} {
		addr, err := netlink.ParseAddr(fmt.Sprintf(format, index))
		if err != nil {
			return err
		}
		addr.Flags = 2 // no duplicate address detection
		if err := netlink.AddrAdd(link, addr); err != nil && !strings.Contains(err.Error(), "not supported") {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// raise raises a maximum that several goroutines keep.
func raise(maximum *atomic.Int64, to int64) {
	for old := maximum.Load(); to > old && !maximum.CompareAndSwap(old, to); old = maximum.Load() {
	}
}

// cable carries frames from one port to the other until it is closed, and notes the longest.
func cable(wg *sync.WaitGroup, from, to overlay.Port, longest *atomic.Int64) {
	bufs, sizes := make([][]byte, 64), make([]int, 64)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	wg.Go(func() {
		frames := make([][]byte, 0, len(bufs))
		for {
			n, err := from.Read(bufs, sizes)
			if err != nil {
				return
			}
			frames = frames[:0]
			for i := range n {
				frames = append(frames, bufs[i][:sizes[i]])
				raise(longest, int64(sizes[i]))
			}
			if to.Write(frames) != nil {
				return
			}
		}
	})
}

// TestTraffic joins two hosts by their ports and sends TCP streams through, which the system offloads: what arrives was cut
// and has the right checksums, or it would not arrive.
func TestTraffic(t *testing.T) {
	type open func(*testing.T, *lab.Host, int) overlay.Port
	for name, kinds := range map[string][2]open{
		"tap to tap": {tap, tap}, "packet to packet": {packet, packet}, "tap to packet": {tap, packet},
	} {
		t.Run(name, func(t *testing.T) {
			l := labtest.New(t)
			a, err := l.Host("a")
			require.NoError(t, err)
			b, err := l.Host("b")
			require.NoError(t, err)
			portA, portB := kinds[0](t, a, 1), kinds[1](t, b, 2)
			require.Equal(t, mtu, portA.MTU())
			var wg sync.WaitGroup
			var longest atomic.Int64
			cable(&wg, portA, portB, &longest)
			cable(&wg, portB, portA, &longest)
			for _, addr := range []string{"10.9.0.%d", "[fd09::%d]"} {
				transfer(t, a, b, fmt.Sprintf(addr, 2))
				transfer(t, b, a, fmt.Sprintf(addr, 1))
			}
			require.NoError(t, portA.Close())
			require.NoError(t, portB.Close())
			require.NoError(t, portB.Close())
			wg.Wait()
			require.LessOrEqual(t, longest.Load(), int64(mtu+14), "bundles were cut")
			_, err = portA.Read([][]byte{make([]byte, 2000)}, make([]int, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			require.ErrorIs(t, portB.Write([][]byte{make([]byte, 100)}), net.ErrClosed)
		})
	}
}

// transfer sends a few megabytes from one host to an address of another.
func transfer(t *testing.T, from, to *lab.Host, addr string) {
	t.Helper()
	require.NoError(t, tryTransfer(from, to, addr))
}

func tryTransfer(from, to *lab.Host, addr string) error {
	listener, err := to.Listen("tcp", addr+":0")
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	data := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	go func() {
		conn, err := from.DialContext(context.Background(), "tcp", listener.Addr().String())
		if err == nil {
			_, _ = conn.Write(data)
			_ = conn.Close()
		}
	}()
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	got, err := io.ReadAll(conn)
	if err == nil && !bytes.Equal(data, got) {
		err = errors.New("data did not arrive whole")
	}
	return err
}

// TestPacketVLAN sees that tags, which the kernel takes out, come back, and that neither end reads what it wrote.
func TestPacketVLAN(t *testing.T) {
	l := labtest.New(t)
	h, err := l.Host("a")
	require.NoError(t, err)
	outer := packet(t, h, 1)
	defer func() { _ = outer.Close() }()
	var inner *port.Packet
	require.NoError(t, h.Do(func() error {
		inner, err = port.OpenPacket(port.PacketConfig{Interface: "inner"})
		return err
	}))
	defer func() { _ = inner.Close() }()

	frames := [][]byte{taggedFrame(5, 100), taggedFrame(6, 300), taggedFrame(7, mtu)}
	for i, way := range [][2]overlay.Port{{inner, outer}, {outer, inner}} {
		received := readTagged(way[1].(overlay.SegmentedPort), i == 1)
		probe := taggedFrame(9, 50)
		require.Eventually(t, func() bool { // an interface that is up loses frames for a while
			require.NoError(t, way[0].Write([][]byte{probe}))
			select {
			case <-received:
				return true
			case <-time.After(10 * time.Millisecond):
				return false
			}
		}, 10*time.Second, time.Millisecond)
		require.NoError(t, way[0].Write(frames))
		for _, want := range frames {
			got := <-received
			for bytes.Equal(got, probe) {
				got = <-received
			}
			require.Equal(t, want, got)
		}
	}
}

func taggedFrame(id byte, size int) []byte {
	return append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0x60, id, 0x88, 0xb5}, make([]byte, size)...)
}

// readTagged returns the frames with a tag that arrive, until the port is closed. It reads two at a time, one way or the other.
func readTagged(p overlay.SegmentedPort, direct bool) <-chan []byte {
	received := make(chan []byte, 4096)
	go func() {
		bufs, sizes := [][]byte{make([]byte, 2000), make([]byte, 2000)}, make([]int, 2)
		read := func() (int, error) { return p.Read(bufs, sizes) }
		if direct {
			read = func() (int, error) {
				frames := []overlay.Frame{{Data: bufs[0][:2000]}, {Data: bufs[1][:2000]}}
				n, err := p.ReadFrames(frames)
				for i, f := range frames[:n] {
					bufs[i], sizes[i] = f.Data, len(f.Data)
				}
				if n == 1 {
					bufs[1] = frames[1].Data
				}
				return n, err
			}
		}
		for {
			n, err := read()
			if err != nil {
				return
			}
			for i := range n {
				if f := bufs[i][:sizes[i]]; f[12] == 0x81 && f[13] == 0 {
					received <- bytes.Clone(f)
				}
			}
		}
	}()
	return received
}

func TestDeviceGone(t *testing.T) {
	l := labtest.New(t)
	for name, open := range map[string]func(*testing.T, *lab.Host, int) overlay.Port{"outer": packet, "tap0": tap} {
		t.Run(name, func(t *testing.T) {
			h, err := l.Host(name)
			require.NoError(t, err)
			p := open(t, h, 1)
			defer func() { _ = p.Close() }()
			failed := make(chan error, 1)
			go func() {
				for {
					if _, err := p.Read([][]byte{make([]byte, 1<<16)}, make([]int, 1)); err != nil {
						failed <- err
						return
					}
				}
			}()
			require.NoError(t, h.Do(func() error {
				link, err := netlink.LinkByName(name)
				return errors.Join(err, netlink.LinkDel(link))
			}))
			require.NotErrorIs(t, <-failed, net.ErrClosed)
			require.Error(t, p.Write([][]byte{make([]byte, 100)}))
			require.Zero(t, p.MTU())
		})
	}
}

// TestDownAndUp takes the interface under a packet socket down and up again: the port goes on.
func TestDownAndUp(t *testing.T) {
	l := labtest.New(t)
	h, err := l.Host("a")
	require.NoError(t, err)
	p := packet(t, h, 1)
	defer func() { _ = p.Close() }()
	require.NoError(t, h.Do(func() error {
		link, err := netlink.LinkByName("outer")
		return errors.Join(err, netlink.LinkSetDown(link))
	}))
	require.NoError(t, p.Write([][]byte{make([]byte, 100)}), "dropped, but not broken")
	require.EqualValues(t, 1, p.(*port.Packet).Status().Refused)
	require.NoError(t, h.Do(func() error {
		link, err := netlink.LinkByName("outer")
		return errors.Join(err, netlink.LinkSetUp(link))
	}))
	conn, err := h.DialContext(context.Background(), "udp", "10.9.0.2:9")
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write([]byte("x"))
	n, err := p.Read([][]byte{make([]byte, 2000)}, make([]int, 1))
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

func TestOpenErrors(t *testing.T) {
	_, err := port.OpenTAP(port.TAPConfig{})
	require.ErrorContains(t, err, "bad interface name")
	_, err = port.OpenPacket(port.PacketConfig{Interface: strings.Repeat("x", 16)})
	require.ErrorContains(t, err, "bad interface name")
	_, err = port.OpenPacket(port.PacketConfig{Interface: "nosuch0"})
	require.ErrorIs(t, err, os.ErrNotExist)

	l := labtest.New(t)
	h, err := l.Host("a")
	require.NoError(t, err)
	p := tap(t, h, 1)
	defer func() { _ = p.Close() }()
	require.Error(t, h.Do(func() error {
		_, err := port.OpenTAP(port.TAPConfig{Name: "tap0"})
		return err
	}), "the device is in use")
	packet(t, h, 2) // makes a veth pair
	require.Error(t, h.Do(func() error {
		link, err := netlink.LinkByName("outer")
		require.NoError(t, errors.Join(err, netlink.LinkSetDown(link)))
		_, err = port.OpenTAP(port.TAPConfig{Name: "outer", MTU: 1000})
		link, errAgain := netlink.LinkByName("outer")
		require.NoError(t, errAgain)
		require.Equal(t, mtu, link.Attrs().MTU, "it is not ours")
		require.Zero(t, link.Attrs().Flags&net.FlagUp, "it is not ours")
		return err
	}), "the name is that of another device")
	require.Error(t, h.Do(func() error {
		_, err := port.OpenTAP(port.TAPConfig{Name: "tap1", MTU: 1 << 20})
		return err
	}), "no such MTU")
	require.NoError(t, h.Do(func() error {
		_, err := netlink.LinkByName("tap1")
		require.Error(t, err, "nothing stays behind")
		return nil
	}))
}

package device_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// tap is a packet socket on a device: it reads what the device receives, and sends.
type tap struct {
	t *testing.T
	f *os.File
}

// openTap opens one here; it is closed at the end of the test.
func openTap(t *testing.T, name string) *tap {
	dev, err := net.InterfaceByName(name)
	require.NoError(t, err)
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network byte order on either kind of machine
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all&0xffff)
	require.NoError(t, err)
	tp := &tap{t: t, f: os.NewFile(uintptr(fd), name)}
	t.Cleanup(func() { tp.f.Close() })
	require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20))
	require.NoError(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all & 0xffff, Ifindex: dev.Index}))
	require.NoError(t, unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
		&unix.PacketMreq{Ifindex: int32(dev.Index), Type: unix.PACKET_MR_PROMISC}))
	return tp
}

func decode(frame []byte) gopacket.Packet {
	return gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
}

// next returns the next frame of interest.
func (tp *tap) next(wanted func(gopacket.Packet) bool) gopacket.Packet {
	require.NoError(tp.t, tp.f.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	for {
		n, err := tp.f.Read(buf)
		require.NoError(tp.t, err)
		if p := decode(append([]byte(nil), buf[:n]...)); wanted(p) {
			return p
		}
	}
}

// A miniature overlay carries frames from one host's pair to the other's, and looks at each. There is no other path.
//
//	a1 --- [weave] --- in|out == relay == out|in --- [weave] --- b1
func TestFramesLeaveThePairFinished(t *testing.T) {
	const mtu, size = 1500, 1 << 20
	l := labtest.New(t)
	var hosts []*lab.Host
	var behind []*lab.Namespace
	var ends []*tap
	for i, name := range []string{"a", "b"} {
		h, c := newHost(t, l, name, 1)
		attach(t, h, attachment(c[0], i+1))
		within(t, h, func() {
			_, err := device.EnsurePair(device.Pair{Bridge: "weave", Inner: "in", Outer: "out"})
			require.NoError(t, err)
			_, err = device.AddAddress("weave", prefix(i+11))
			require.NoError(t, err)
			ends = append(ends, openTap(t, "out"))
		})
		hosts, behind = append(hosts, h), append(behind, c[0])
	}
	var relays sync.WaitGroup
	var faults [2]error
	var tcp [2]int
	for i := range ends {
		relays.Go(func() { tcp[i], faults[i] = relay(ends[i].f, ends[1-i].f, mtu+14) })
	}
	require.EqualValues(t, size, transfer(t, behind[0], behind[1], prefix(2).Addr(), size))
	require.EqualValues(t, size, transfer(t, hosts[0].Namespace, behind[1], prefix(2).Addr(), size), "from the host itself")
	for _, e := range ends {
		require.NoError(t, e.f.Close())
	}
	relays.Wait()
	require.NoError(t, errors.Join(faults[:]...))
	require.Greater(t, tcp[0], 2*size/mtu)
	require.NotZero(t, tcp[1])
}

// relay copies frames until its sockets are closed. It returns how many segments of TCP it saw, and what was wrong with one
// that was not fit for a wire.
func relay(from, to *os.File, longest int) (segments int, fault error) {
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return segments, fault
		}
		if n > longest {
			fault = fmt.Errorf("a frame of %d bytes", n)
		}
		if segment, ok := decode(buf[:n]).Layer(layers.LayerTypeTCP).(*layers.TCP); ok {
			segments++
			if !checksumHolds(buf[:n], segment) {
				fault = errors.New("a segment with a wrong checksum")
			}
		}
		if _, err := to.Write(buf[:n]); err != nil && !errors.Is(err, os.ErrClosed) {
			fault = err
		}
	}
}

// checksumHolds reports whether the checksum of a TCP segment over IPv4 is right: the sum with the pseudo header is all ones.
func checksumHolds(frame []byte, tcp *layers.TCP) bool {
	ip := decode(frame).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	segment := append(append([]byte(nil), tcp.Contents...), tcp.Payload...)
	sum := uint32(layers.IPProtocolTCP) + uint32(len(segment))
	for _, part := range [][]byte{ip.SrcIP.To4(), ip.DstIP.To4(), append(segment, 0)} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(part[i])<<8 | uint32(part[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum == 0xffff
}

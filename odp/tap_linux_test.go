package odp_test

import (
	"encoding/hex"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/odp"
)

// tap is a network device of which this test is the wire: what is written to it comes in by it, and what the kernel sends by it is read.
type tap struct {
	name string
	file *os.File
}

// newTap makes a device that frames go through, or with layer3 one for packets without an Ethernet header. It goes away with the test.
func newTap(t testing.TB, name string, layer3 bool) *tap {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	req, err := unix.NewIfreq(name)
	require.NoError(t, err)
	kind := uint16(unix.IFF_TAP)
	if layer3 {
		kind = unix.IFF_TUN
	}
	req.SetUint16(kind | unix.IFF_NO_PI)
	require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
	tp := &tap{name: name, file: os.NewFile(uintptr(fd), name)}
	t.Cleanup(func() { require.NoError(t, tp.file.Close()) })
	// Nothing is to come out of it but what flows send.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	link, err := netlink.LinkByName(name)
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(link))
	return tp
}

func (d *tap) write(t testing.TB, frame []byte) {
	t.Helper()
	_, err := d.file.Write(frame)
	require.NoError(t, err)
}

func (d *tap) read(t testing.TB) []byte {
	t.Helper()
	require.NoError(t, d.file.SetReadDeadline(time.Now().Add(time.Minute)))
	buf := make([]byte, 4096)
	n, err := d.file.Read(buf)
	require.NoError(t, err, "on %s", d.name)
	return buf[:n]
}

// Ports of a wire.
const (
	inPort  = 1 // frames are sent to it
	outPort = 2
	altPort = 3
	ipPort  = 4 // for packets without an Ethernet header
)

// wire is a datapath with a tap at each port.
type wire struct {
	conn *odp.Conn
	dp   odp.Index
	up   *odp.UpcallReader
	taps map[uint32]*tap
}

func newWire(t testing.TB, name string) *wire {
	t.Helper()
	w := &wire{conn: openKernel(t), taps: map[uint32]*tap{}}
	w.up = openUpcalls(t, w.conn)
	for port, device := range map[uint32]string{inPort: "odpin", outPort: "odpout", altPort: "odpalt", ipPort: "odpip"} {
		w.taps[port] = newTap(t, device, port == ipPort)
	}
	w.dp = newDatapath(t, w.conn, odp.DatapathSpec{Name: name}).Index
	for port, device := range w.taps {
		_, err := w.conn.CreateVport(t.Context(), w.dp, odp.VportSpec{
			Name: device.name, Type: odp.Netdev, Number: port, UpcallPIDs: []uint32{w.up.PID()},
		})
		require.NoError(t, err)
	}
	return w
}

// rules replaces all flows by these, in the notation of ovs-dpctl.
func (w *wire) rules(t testing.TB, flows ...[2]string) {
	t.Helper()
	require.NoError(t, w.conn.FlushFlows(t.Context(), w.dp))
	for _, text := range flows {
		m, err := odp.ParseMatch(text[0])
		require.NoError(t, err, text[0])
		actions, err := odp.ParseActions(text[1])
		require.NoError(t, err, text[1])
		require.NoError(t, w.conn.CreateFlow(t.Context(), w.dp, odp.Flow{Match: m, Actions: actions}), text)
	}
}

// through sends frames in by a port and returns, in hexadecimal, what comes out by the others. The kernel handles a frame while it is
// written, so that a frame sent after them through the datapath marks the end.
func (w *wire) through(t testing.TB, in uint32, frames ...[]byte) map[uint32][]string {
	t.Helper()
	for _, f := range frames {
		w.taps[in].write(t, f)
	}
	end := make([]byte, 60)
	copy(end[12:], "\x88\xb6the end")
	got := map[uint32][]string{}
	for port, device := range w.taps {
		mark := end
		out := odp.Execute{Packet: end, Actions: []odp.Action{odp.Output(port)}}
		if port == ipPort {
			mark, out.Actions = end[14:], append([]odp.Action{odp.PopEth{}}, out.Actions...)
		}
		require.NoError(t, w.conn.Execute(t.Context(), w.dp, out))
		for {
			frame := device.read(t)
			if string(frame) == string(mark) {
				break
			}
			got[port] = append(got[port], hex.EncodeToString(frame))
		}
	}
	return got
}

// only is what through returns when some frames come out by one port.
func out(port uint32, frames ...[]byte) map[uint32][]string {
	got := map[uint32][]string{}
	for _, f := range frames {
		got[port] = append(got[port], hex.EncodeToString(f))
	}
	return got
}

package fastdp

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/odptest"
)

// oldPeer is a peer of Weave Net 2.8 that dialled us, as the vectors have recorded it.
type oldPeer struct {
	*rig
	v        vectors
	bundle   *overlay.Bundle
	controls []string // messages that we sent to it
	events   []overlay.EventKind
	seen     int // packets looked at
}

const (
	oldName = peer.Name(0x0a00000000ee)
	oldUID  = 0x09082ae8c1d61206
)

// withOldPeer runs a test with a connection to an old peer. Tunnels end at port 2, as in the vectors.
func withOldPeer(t *testing.T, ours, theirs peer.ShortID, ends outer, test func(t *testing.T, o *oldPeer)) {
	synctest.Test(t, func(t *testing.T) {
		o := &oldPeer{rig: &rig{t: t, k: odptest.New()}, v: readVectors(t)}
		var err error
		o.conn, err = odp.Open(t.Context(), odp.Config{Dial: o.k.Dial})
		require.NoError(t, err)
		defer o.conn.Close()
		dp, err := o.conn.CreateDatapath(t.Context(), odp.DatapathSpec{Name: "datapath"})
		require.NoError(t, err)
		_, err = o.conn.CreateVport(t.Context(), dp.Index, odp.VportSpec{Name: "a", Type: odp.Netdev})
		require.NoError(t, err)
		o.start(nil)
		defer func() { o.stop() }()
		require.EqualValues(t, 2, o.number("vxlan-6784"))
		o.fwd.SetRoutes(overlaytest.Routes{
			Hops: map[peer.Name]peer.Name{oldName: oldName}, Floods: map[peer.Name][]peer.Name{self: {oldName}},
			IDs: map[peer.Name]peer.ShortID{self: ours, oldName: theirs},
		})
		o.bundle, err = o.sw.Prepare(overlay.Params{
			Self: self, Remote: oldName, Local: addrPort(ends.dst), RemoteAddr: netip.AddrPortFrom(ends.src, 40000),
			ConnUID: oldUID, Features: map[string]string{overlay.FeatureKey: "fastdp sleeve"},
		}, func(tag byte, payload []byte) error {
			o.controls = append(o.controls, hex.EncodeToString(append([]byte{tag}, payload...)))
			return nil
		}, func(e overlay.Event) { o.events = append(o.events, e.Kind) })
		require.NoError(t, err)
		o.bundle.Confirm()
		defer o.bundle.Close()
		o.settle()
		test(t, o)
	})
}

// replay has the kernel report what is in a recorded message.
func (o *oldPeer) replay(name string) {
	o.t.Helper()
	for _, m := range o.v.Kernel {
		if m.Name != name {
			continue
		}
		b := unhex(o.t, m.Message)
		key := keyOf(o.t, b)
		var packet []byte
		for attrs := b[24:]; len(attrs) > 4; {
			n := int(binary.LittleEndian.Uint16(attrs))
			if attrs[2] == 1 {
				packet = attrs[4:n]
			}
			attrs = attrs[min((n+3)/4*4, len(attrs)):]
		}
		o.seen = len(o.k.Executed())
		require.True(o.t, o.k.Miss(o.dp(), 2, packet, key))
		o.settle()
		return
	}
	require.Fail(o.t, "no message", name)
}

// heartbeats returns how many we sent since the last look, and checks each.
func (o *oldPeer) heartbeats() (n int) {
	o.t.Helper()
	want := o.v.Captures[1]
	require.Equal(o.t, "heartbeat_plain_reverse", want.Name)
	for _, p := range o.k.Executed()[o.seen:] {
		require.Equal(o.t, want.Ethernet+want.Payload, hex.EncodeToString(p.Packet[:28]))
		require.Len(o.t, p.Packet, want.Length-50+14) // without the outer headers, with the Ethernet one
		require.Empty(o.t, p.Key)
		list, err := p.Actions.Actions()
		require.NoError(o.t, err)
		id := binary.BigEndian.Uint32(unhex(o.t, want.VXLAN)[4:]) >> 8
		require.Equal(o.t, []odp.Action{setTunnel(vni(id), outer{netip.MustParseAddr("192.168.12.2"), netip.MustParseAddr("192.168.12.1")}), odp.Output(2)}, list)
		n++
	}
	o.seen = len(o.k.Executed())
	return n
}

// TestOldPeer replays the life of a connection with an old peer from what was recorded of one.
func TestOldPeer(t *testing.T) {
	ends := outer{netip.MustParseAddr("192.168.12.1"), netip.MustParseAddr("192.168.12.2")}
	withOldPeer(t, 0x794, 0x13a, ends, func(t *testing.T, o *oldPeer) {
		require.Equal(t, 1, o.heartbeats(), "at once")
		require.Empty(t, o.controls)
		time.Sleep(time.Second)
		o.settle()
		require.Equal(t, 2, o.heartbeats(), "every 500 ms")

		o.replay("upcall_miss_heartbeat")
		require.Equal(t, []string{o.v.Control.Cases[0].Message}, o.controls, "acknowledged")
		o.replay("upcall_miss_heartbeat")
		require.Len(t, o.controls, 1, "once")
		require.NotContains(t, o.events, overlay.Established)

		ack := unhex(t, o.v.Control.Cases[0].Message)
		for range 2 {
			o.bundle.Control(ack[0], ack[1:])
		}
		for _, nonsense := range []string{"0700", "07", "070009", "0700ff00", "070001", "07000100112233", "07ff00"} {
			b := unhex(t, nonsense)
			o.bundle.Control(b[0], b[1:])
		}
		o.settle()
		require.Equal(t, Name, o.bundle.Status().Overlay)
		require.True(t, o.bundle.Status().Established)
		o.heartbeats()
		for range 3 {
			time.Sleep(10 * time.Second)
			o.replay("upcall_miss_heartbeat")
		}
		require.NotContains(t, o.events, overlay.OnHold)

		time.Sleep(26 * time.Second)
		o.settle()
		require.Contains(t, o.bundle.Statuses()[0].Reason, "no heartbeat")
		require.NotContains(t, o.bundle.Statuses()[0].Reason, "invalid", "it names the remote")
		o.replay("upcall_miss_heartbeat")
		require.Empty(t, o.bundle.Statuses()[0].Reason, "back at once")
	})
}

// TestOldPeerFrames replays frames of stations at an old peer.
func TestOldPeerFrames(t *testing.T) {
	ends := outer{netip.MustParseAddr("192.168.12.1"), netip.MustParseAddr("192.168.12.2")}
	there, here := overlay.MAC{0xd2, 0x82, 0x42, 0x13, 0xfd, 0x98}, overlay.MAC{0x62, 0x07, 0xdc, 0x05, 0x05, 0x68}
	withOldPeer(t, 0x794, 0x13a, ends, func(t *testing.T, o *oldPeer) {
		o.replay("upcall_miss_heartbeat")
		ack := unhex(t, o.v.Control.Cases[0].Message)
		o.bundle.Control(ack[0], ack[1:])
		o.settle()
		a, b := o.number("a"), o.number("b")

		o.replay("upcall_miss_arp")
		at, _ := o.fwd.Station(there)
		require.Equal(t, oldName, at, "learned by the VNI")
		require.Equal(t, [][]step{{out(a), out(b)}}, o.executed(&o.seen), "to all stations, and not back")

		require.True(t, o.miss("b", there, here)) // the answer
		o.settle()
		reply := step{kind: stepTunnel, port: 2, vni: newVNI(0x794, 0x13a), outer: ends.reversed()}
		got := o.executed(&o.seen)
		require.Len(t, got, 1)
		require.True(t, sameSteps([]step{reply}, got[0]))

		o.replay("upcall_miss_vlan")
		require.Equal(t, [][]step{{out(b)}}, o.executed(&o.seen), "to the station that answered")
		flows := o.consistent()
		require.Contains(t, flows, flowKey{shape: shapeDeliver, mac: here, tags: tags{first: odp.TypeVLAN}})
		require.True(t, sameSteps([]step{reply}, flows[flowKey{shape: shapeToPeer, mac: there}]))
	})
}

// TestTooBigVector replays what the kernel makes of a packet that is too long for the way to a peer.
func TestTooBigVector(t *testing.T) {
	ends := outer{netip.MustParseAddr("192.168.50.2"), netip.MustParseAddr("192.168.50.1")}
	withOldPeer(t, 0x111, 0x222, ends, func(t *testing.T, o *oldPeer) {
		frame := unhex(t, o.v.TooBig.Frame)
		require.True(t, o.miss("b", all, overlay.MAC(frame))) // the sender of the packet is known
		o.settle()
		nest := unhex(t, o.v.TooBig.Tunnel)
		key := odptest.Key(odp.InPort(2), odp.Ethernet{Dst: odp.MAC(frame), Src: odp.MAC(frame[6:])}, odp.TypeIPv4)
		key = append(key, byte(len(nest)+4), byte((len(nest)+4)>>8), 16, 0x80)
		key = append(key, nest...)
		o.executed(&o.seen)
		require.True(t, o.k.Miss(o.dp(), 2, frame, key))
		o.settle()
		require.Equal(t, [][]step{{out(o.number("b"))}}, o.executed(&o.seen), "it gets to the sender")
		require.EqualValues(t, 1, o.Status().Counts["too_big"])
		_, known := o.fwd.Station(overlay.MAC(frame[6:]))
		require.False(t, known)

		require.True(t, o.k.Miss(o.dp(), 2, frameFor(overlay.MAC(frame), atB), key)) // no such message
		o.settle()
		require.Empty(t, o.executed(&o.seen))
		require.EqualValues(t, 1, o.Status().Counts["loops"])
	})
}

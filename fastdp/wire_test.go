package fastdp

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

// vectors are those sections of the specification's vectors that are tested here.
type vectors struct {
	VNI struct {
		Cases []struct {
			Dst peer.ShortID `json:"dst_short_id"`
			Src peer.ShortID `json:"src_short_id"`
			VNI uint32
		}
	}
	Heartbeat struct {
		Cases []struct {
			UID    string `json:"conn_uid"`
			Tail   string `json:"execute_message_tail_after_packet"`
			Head   string `json:"frame_first_24"`
			Length int    `json:"frame_length"`
			MTU    int
		}
	}
	Control struct {
		Cases []struct {
			Message string
			Index   byte `json:"overlay_index"`
			Tag     byte
			Payload string
		}
	} `json:"control_messages"`
	Kernel   []struct{ Name, Message string } `json:"kernel_messages"`
	Captures []struct {
		Name     string
		VXLAN    string `json:"vxlan_header"`
		Ethernet string `json:"ethernet_header"`
		Payload  string `json:"payload_first_14"`
		Length   int    `json:"ip_total_length"`
	} `json:"wire_captures"`
	TooBig struct {
		Tunnel string `json:"tunnel_attributes"`
		Frame  string `json:"frame_first_60"`
	} `json:"too_big"`
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/fastdp.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &v))
	require.NotEmpty(t, v.VNI.Cases)
	require.NotEmpty(t, v.Heartbeat.Cases)
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func TestVNIVectors(t *testing.T) {
	for _, c := range readVectors(t).VNI.Cases {
		v := newVNI(c.Src, c.Dst)
		require.Equal(t, vni(c.VNI), v)
		require.Equal(t, c.Src, v.src())
		require.Equal(t, c.Dst, v.dst())
	}
}

// TestHeartbeatVectors compares the frames, and what the kernel is told to do with them, with those of Weave Net.
func TestHeartbeatVectors(t *testing.T) {
	ends := outer{netip.MustParseAddr("192.168.12.1"), netip.MustParseAddr("192.168.12.2")}
	for _, c := range readVectors(t).Heartbeat.Cases {
		uid, err := strconv.ParseUint(c.UID, 16, 64)
		require.NoError(t, err)
		life := newHeartbeatLife(uid, c.MTU)
		life.ready(epoch)
		acts := life.take(nil)
		require.Len(t, acts, 1)
		frame := acts[0].frame
		require.Len(t, frame, c.Length)
		require.Equal(t, c.Head, hex.EncodeToString(frame[:24]))
		require.Equal(t, make([]byte, c.Length-24), frame[24:])
		got, ok := parseHeartbeat(frame)
		require.True(t, ok)
		require.Equal(t, uid, got)

		// An empty key, and actions with their header, which name a TOS of zero.
		theirs, err := odp.ActionData(unhex(t, c.Tail)[8:]).Actions()
		require.NoError(t, err)
		steps := []step{{kind: stepTunnel, port: 2, vni: 0x79413a, outer: ends}}
		require.Equal(t, theirs, actions(steps))
		parsed, ok := parseActions(theirs)
		require.True(t, ok)
		require.Equal(t, steps, parsed)
	}
}

func TestControlVectors(t *testing.T) {
	for _, c := range readVectors(t).Control.Cases {
		life := newHeartbeatLife(1, 576)
		life.ready(epoch)
		life.take(nil)
		life.frame(epoch, appendHeartbeat(nil, 1, 590))
		acts := life.take(nil)
		require.Len(t, acts, 1)
		require.Equal(t, doControl, acts[0].kind)
		message := append([]byte{overlay.ControlTag, c.Index, acts[0].tag}, acts[0].payload...)
		require.Equal(t, c.Message, hex.EncodeToString(message))
	}
}

// TestFrameKeys reads the keys of upcalls as a kernel sent them.
func TestFrameKeys(t *testing.T) {
	ends := outer{netip.MustParseAddr("192.168.12.1"), netip.MustParseAddr("192.168.12.2")}
	mac := func(s string) overlay.MAC {
		m, err := overlay.ParseMAC(s)
		require.NoError(t, err)
		return m
	}
	want := map[string]frameKey{
		"upcall_miss_heartbeat": {port: 2, tunneled: true, vni: 0x79413a, outer: ends},
		"upcall_miss_arp": {port: 2, tunneled: true, vni: 0x79413a, outer: ends, src: mac("d2:82:42:13:fd:98"),
			dst: mac("ff:ff:ff:ff:ff:ff")},
		"upcall_miss_vlan": {port: 2, tunneled: true, vni: 0x79413a, outer: ends, src: mac("d2:82:42:13:fd:98"),
			dst: mac("62:07:dc:05:05:68"), tags: tags{first: odp.TypeVLAN}},
	}
	for _, m := range readVectors(t).Kernel {
		f, ok := parseFrame(keyOf(t, unhex(t, m.Message)))
		require.True(t, ok, m.Name)
		require.Equal(t, want[m.Name], f, m.Name)
		delete(want, m.Name)
	}
	require.Empty(t, want)
}

// keyOf returns the key in the message of an upcall: the first attribute.
func keyOf(t testing.TB, message []byte) odp.KeyData {
	t.Helper()
	attrs := message[24:]
	require.Equal(t, []byte{2, 0}, attrs[2:4])
	return odp.KeyData(attrs[4 : int(attrs[0])|int(attrs[1])<<8])
}

func FuzzParseFrame(f *testing.F) {
	for _, m := range readVectors(f).Kernel {
		f.Add([]byte(keyOf(f, unhex(f, m.Message))))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if frame, ok := parseFrame(b); ok && frame.vni > maxVNI {
			t.Fatal("a VNI of more than 24 bits")
		}
	})
}

func FuzzProbe(f *testing.F) {
	f.Add(probe{uid: 5, kind: kindProbe, number: 7, sent: 9}.appendTo(nil, 1390))
	f.Add(probe{uid: 5, kind: kindAnswer, number: 7, sent: 9, size: 1390}.appendTo(nil, probeSmall))
	f.Add(probe{uid: 5, kind: kindVerdict, number: 7, sent: 9, size: 1390, part: 2, right: true}.appendTo(nil, probeSmall))
	f.Add(appendHeartbeat(nil, 5, heartbeatMin))
	for _, c := range readVectors2(f).Ignored {
		f.Add(unhex(f, c.Frame))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseProbe(b)
		if !ok {
			return
		}
		again, ok := parseProbe(p.appendTo(nil, max(len(b), probeSmall)))
		require.True(t, ok)
		require.Equal(t, p, again)
	})
}

// matches are those of flows of ours, and of others.
var matches = []string{
	"recirc_id(0),in_port(1),eth(src=02:00:00:00:01:01)",
	"recirc_id(0x1),eth(dst=02:00:00:00:02:01)",
	"recirc_id(0x1),in_port(1),eth(dst=33:33:00:00:00:01),eth_type(0x86dd),ipv6(proto=58),icmpv6(type=143)",
	"recirc_id(0),in_port(1),eth(src=02:00:00:00:01:01),eth_type(0x8100),vlan(vid=0/0,pcp=0/0),encap()",
	"recirc_id(0),tunnel(tun_id=0x1002,src=10.0.0.2,dst=10.0.0.1,flags(+key)),in_port(2),eth(src=02:00:00:00:02:01)",
	"recirc_id(0),tunnel(tun_id=0x1002,ipv6_src=fd00::2,ipv6_dst=fd00::1,flags(+key)),in_port(2)",
	"in_port(3),eth_type(0x0800),ipv4(src=10.0.0.0/255.0.0.0)",
}

// FuzzParseKey: what is taken for a flow of ours is found again by what it matches and by its name.
func FuzzParseKey(f *testing.F) {
	for _, m := range matches {
		f.Add(m, uint8(shapeSource), uint32(1), []byte{2, 0, 0, 0, 1, 1}, uint32(0x1002))
		f.Add(m, uint8(shapeArrive), uint32(2), []byte{2, 0, 0, 0, 2, 1}, uint32(0x1002))
		f.Add(m, uint8(shapeSpread), uint32(2), []byte{0x33, 0x33, 0, 0, 0, 1}, uint32(0x1002))
	}
	f.Fuzz(func(t *testing.T, text string, kind uint8, port uint32, mac []byte, id uint32) {
		if m, err := odp.ParseMatch(text); err == nil {
			_, ok := parseKey(m, "0123456789abcdef")
			require.False(t, ok, "not a name of ours")
		}
		k := flowKey{shape: shape(kind%uint8(numShapes-1)) + 1, port: port, vni: vni(id & maxVNI), outer: fromB}
		copy(k.mac[:], mac)
		k = k.cleaned()
		again, ok := parseKey(k.match(), k.ufid())
		require.True(t, ok)
		require.Equal(t, k, again)
	})
}

// FuzzParseActions: what is taken for actions of ours is the same when it is made again.
func FuzzParseActions(f *testing.F) {
	for _, a := range []string{
		"1,2,3", "recirc(0x1)", "userspace(pid=7,userdata(01))", "userspace(pid=7)", "drop",
		"set(tunnel(tun_id=0x2001,src=10.0.0.1,dst=10.0.0.2,ttl=64,flags(df|key))),1", "set(tunnel(tun_id=0x2001,dst=10.0.0.2,ttl=64,flags(key)))",
		"set(eth(dst=02:00:00:00:00:01)),1",
	} {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := odp.ParseActions(text)
		if err != nil {
			return
		}
		steps, ok := parseActions(list)
		if !ok {
			return
		}
		again, ok := parseActions(actions(steps))
		require.True(t, ok)
		require.Equal(t, steps, again)
	})
}

// TestRefusedLinks: what no tunnel can be made of is refused.
func TestRefusedLinks(t *testing.T) {
	d, err := New(Config{Self: self, Forwarder: overlay.NewForwarder(self)})
	require.NoError(t, err)
	good := overlay.Params{
		Self: self, Remote: nameB, Local: addrPort(selfAddr), RemoteAddr: addrPort(addrB), Outbound: true,
		SendControl: func(byte, []byte) error { return nil }, Report: func(overlay.Event) {}, Receive: func([]overlay.Frame) {},
	}
	l, err := d.Overlay2().Prepare(good)
	require.NoError(t, err)
	l.Close()
	zoned := good
	zoned.Local = addrPort(netip.MustParseAddr("fe80::1%eth0"))
	zoned.RemoteAddr = addrPort(netip.MustParseAddr("fe80::2%eth0"))
	_, err = d.Overlay2().Prepare(zoned)
	require.ErrorIs(t, err, ErrNoAddress)
	mixed := good
	mixed.RemoteAddr = addrPort(netip.MustParseAddr("fd00::2"))
	_, err = d.Overlay2().Prepare(mixed)
	require.ErrorIs(t, err, ErrNoAddress)
	last := good
	last.RemoteAddr = netip.AddrPortFrom(addrB, 65535)
	_, err = d.Overlay2().Prepare(last)
	require.ErrorIs(t, err, ErrNoAddress)
	_, err = d.Overlay().Prepare(zoned)
	require.ErrorIs(t, err, ErrNoAddress)
}

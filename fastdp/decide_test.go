package fastdp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

// The peers of the tests: self in the middle, B and C beside it, D behind B. C is reached by sleeve alone.
//
//	D --- B --- self --- C
const (
	self  = peer.Name(0x0a0000000001)
	nameB = peer.Name(0x0a0000000002)
	nameC = peer.Name(0x0a0000000003)
	nameD = peer.Name(0x0a0000000004)
)

var (
	here1 = overlay.MAC{2, 0, 0, 0, 1, 1}
	here2 = overlay.MAC{2, 0, 0, 0, 1, 2}
	atB   = overlay.MAC{2, 0, 0, 0, 2, 1}
	atC   = overlay.MAC{2, 0, 0, 0, 3, 1}
	atD   = overlay.MAC{2, 0, 0, 0, 4, 1}
	novel = overlay.MAC{2, 0, 0, 0, 9, 9}
	all   = overlay.MAC{255, 255, 255, 255, 255, 255}
	group = overlay.MAC{0x01, 0x00, 0x5e, 1, 2, 3}

	selfAddr, addrB = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	toB             = outer{selfAddr, addrB}
	fromB           = toB.reversed()
)

const (
	portA, portB, portTunnel, portTAP = 1, 2, 3, userNumber
)

func id(n peer.Name) peer.ShortID { return peer.ShortID(n & 0xfff) }

// newTable makes a table with the peers above.
func newTable(t testing.TB, tap bool) *table {
	t.Helper()
	f := overlay.NewForwarder(self)
	d, err := New(Config{Self: self, Forwarder: f})
	require.NoError(t, err)
	f.SetRoutes(overlaytest.Routes{
		Hops: map[peer.Name]peer.Name{nameB: nameB, nameC: nameC, nameD: nameB},
		Floods: map[peer.Name][]peer.Name{
			self: {nameC, nameB}, nameB: {nameC}, nameD: {nameC}, nameC: {nameB},
		},
		IDs: map[peer.Name]peer.ShortID{self: id(self), nameB: id(nameB), nameC: id(nameC), nameD: id(nameD)},
	})
	ports := []portInfo{
		{number: 0, name: "dp"}, {number: portA, name: "a", role: roleLocal}, {number: portB, name: "b", role: roleLocal},
		{number: portTunnel, name: "vxlan-6784", role: roleTunnel, udp: 6784},
	}
	if tap {
		ports = append(ports, portInfo{number: portTAP, name: "tap", role: roleUser})
	}
	d.table.ports.Store(newPortMap(ports))
	d.table.pid.Store(77)
	memory := overlaytest.NewNetwork()
	sw, err := overlay.NewSwitch(overlay.SwitchConfig{Self: self, Forwarder: f, Overlays: []overlay.Overlay{d.Overlay(), memory.Overlay(self, "sleeve")}})
	require.NoError(t, err)
	connect(t, sw, nameB, addrB, "fastdp sleeve")
	connect(t, sw, nameC, netip.MustParseAddr("10.0.0.3"), "sleeve")
	require.Eventually(t, func() bool { return d.table.links.arriving(fromB, 6784) != nil }, time.Second, time.Millisecond)
	now := time.Now()
	for m, port := range map[overlay.MAC]uint32{here1: portA, here2: portB} {
		f.LearnLocal(now, m)
		d.table.stations.learn(m, port, now)
	}
	for m, at := range map[overlay.MAC]peer.Name{atB: nameB, atC: nameC, atD: nameD} {
		f.LearnRemote(now, m, at)
	}
	return &d.table
}

func connect(t testing.TB, sw *overlay.Switch, remote peer.Name, at netip.Addr, offer string) {
	t.Helper()
	b, err := sw.Prepare(overlay.Params{
		Self: self, Remote: remote, Local: netip.AddrPortFrom(selfAddr, 6783), RemoteAddr: netip.AddrPortFrom(at, 6783), Outbound: true,
		ConnUID: uint64(remote), Features: map[string]string{overlay.FeatureKey: offer},
	}, func(byte, []byte) error { return nil }, func(overlay.Event) {})
	require.NoError(t, err)
	b.Confirm()
	t.Cleanup(b.Close)
}

func out(port uint32) step { return step{kind: stepOutput, port: port} }
func tun(src, dst peer.Name) step {
	return step{kind: stepTunnel, port: portTunnel, vni: newVNI(id(src), id(dst)), outer: toB, hop: nameB}
}

// TestDecisions has a row for each row of section 6.3 of the specification, and for what goes beyond it.
func TestDecisions(t *testing.T) {
	local := func(dst overlay.MAC) frameKey {
		return frameKey{port: portA, stage: stageLocal, src: here1, dst: dst}
	}
	tunnel := func(src, dst peer.Name, stage odp.RecircID, mac overlay.MAC) frameKey {
		return frameKey{port: portTunnel, stage: stage, src: atB, dst: mac, tunneled: true, vni: newVNI(id(src), id(dst)), outer: fromB}
	}
	user := step{kind: stepUser, port: 77}
	recirc := func(n uint32) []step { return []step{{kind: stepRecirc, port: n}} }
	for _, c := range []struct {
		name  string
		frame frameKey
		shape shape
		want  verdict
	}{
		{"a good source", frameKey{port: portA, src: here1, dst: all}, shapeSource, verdict{steps: recirc(stageLocal)}},
		{"a source at another peer", frameKey{port: portA, src: atB}, shapeSource, verdictDrop},
		{"a group as the source", frameKey{port: portA, src: group}, shapeSource, verdictDrop},
		{"no source", frameKey{port: portA}, shapeSource, verdictDrop},
		{"1: to a local port", local(here2), shapeFromPort, verdict{steps: []step{out(portB)}}},
		{"1: to where it comes from", local(here1), shapeFromPort, verdict{}},
		{"2: to a peer", local(atB), shapeToPeer, verdict{steps: []step{tun(self, nameB)}}},
		{"2: to a peer beyond", local(atD), shapeToPeer, verdict{steps: []step{tun(self, nameD)}}},
		{"to a peer that sleeve reaches", local(atC), shapeToPeer, verdict{steps: []step{out(portTAP)}}},
		{"4: unknown", local(novel), shapeFromPort, verdict{brief: true, steps: []step{out(portB), out(portTAP), tun(self, nameB)}}},
		{"5: broadcast", local(all), shapeFromPort, verdict{steps: []step{out(portB), out(portTAP), tun(self, nameB)}}},
		{"5: a group, not of IP", local(group), shapeFromPort, verdict{noFlow: true, steps: []step{out(portB), out(portTAP), tun(self, nameB)}}},
		{"6: spanning tree", local(overlay.MAC{1, 0x80, 0xc2, 0, 0, 0}), shapeFromPort, verdict{steps: []step{out(portB)}}},
		{"7: relay", tunnel(nameB, nameD, 0, all), shapeRelay, verdict{noFlow: true}}, // from B to D by B: back
		{"relay of what B has from us", tunnel(nameC, nameD, 0, all), shapeRelay, verdict{noFlow: true}},
		{"from C, which comes to B by us", tunnel(nameC, self, 0, all), shapeArrive, verdictDrop},
		{"from D, which comes to us by B", tunnel(nameD, self, 0, all), shapeArrive, verdict{gone: true}}, // the station is at B
		{"7: relay to sleeve", tunnel(nameD, nameC, 0, all), shapeRelay, verdict{steps: []step{user}}},
		{"a good source at a peer", tunnel(nameB, self, 0, all), shapeArrive, verdict{steps: recirc(stageArrived)}},
		{"8: deliver", tunnel(nameB, self, stageArrived, here1), shapeDeliver, verdict{steps: []step{out(portA)}}},
		{"9: spread", tunnel(nameB, self, stageArrived, all), shapeSpread, verdict{steps: []step{out(portA), out(portB), user}}},
		{"9: no longer known", tunnel(nameB, self, stageArrived, novel), shapeSpread, verdict{brief: true, steps: []step{out(portA), out(portB), user}}},
		{"9: at another peer", tunnel(nameB, self, stageArrived, atC), shapeSpread, verdict{brief: true, steps: []step{out(portA), out(portB), user}}},
		{"11: unknown id", frameKey{port: portTunnel, src: atB, tunneled: true, vni: newVNI(0xfff, id(self)), outer: fromB}, shapeArrive, verdictLost},
		{"from a stranger's address", frameKey{port: portTunnel, src: atB, tunneled: true, vni: newVNI(id(nameB), id(self)),
			outer: outer{netip.MustParseAddr("10.9.9.9"), selfAddr}}, shapeArrive, verdictLost},
		{"relay for a stranger's address", frameKey{port: portTunnel, src: atB, tunneled: true, vni: newVNI(id(nameD), id(nameC)),
			outer: outer{netip.MustParseAddr("10.9.9.9"), selfAddr}}, shapeRelay, verdictLost},
		{"our own id from the tunnel", tunnel(self, self, 0, all), shapeArrive, verdictDrop},
		{"ours, come back", tunnel(self, nameD, 0, here1), shapeRelay, verdict{noFlow: true}},
		{"by sleeve, to a station", frameKey{port: portTAP, src: atC, dst: here1}, shapeUser, verdict{steps: []step{out(portA)}}},
		{"by sleeve, to all", frameKey{port: portTAP, src: atC, dst: all}, shapeUser, verdict{steps: []step{out(portA), out(portB)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := newTable(t, true)
			k, ok := table.classify(&c.frame)
			require.True(t, ok)
			require.Equal(t, c.shape, k.shape)
			require.Equal(t, c.want, table.decide(k))
		})
	}
}

func TestNoPortForUser(t *testing.T) {
	table := newTable(t, false)
	f := frameKey{port: portA, stage: stageLocal, dst: all}
	k, _ := table.classify(&f)
	require.Equal(t, []step{out(portB), tun(self, nameB), {kind: stepUser, port: 77}}, table.decide(k).steps)
}

func TestFramesThatNobodyExpects(t *testing.T) {
	table := newTable(t, true)
	for _, f := range []frameKey{{port: 0}, {port: 99}, {port: portTunnel, src: atB}} {
		_, ok := table.classify(&f)
		require.False(t, ok, "%+v", f)
	}
}

// TestMoves: what was decided does not hold any more when a station is elsewhere.
func TestMoves(t *testing.T) {
	table := newTable(t, true)
	keys := map[shape]flowKey{
		shapeSource:   {shape: shapeSource, port: portA, mac: here1},
		shapeToPeer:   {shape: shapeToPeer, mac: atB},
		shapeDeliver:  {shape: shapeDeliver, mac: here1},
		shapeArrive:   {shape: shapeArrive, port: portTunnel, mac: atB, vni: newVNI(id(nameB), id(self)), outer: fromB},
		shapeFromPort: {shape: shapeFromPort, port: portA, mac: novel},
		shapeSpread:   {shape: shapeSpread, port: portTunnel, mac: novel, vni: newVNI(id(nameB), id(self)), outer: fromB},
	}
	for s, k := range keys {
		require.False(t, table.decide(k).gone, s)
	}
	now := time.Now().Add(time.Minute)
	table.fwd.LearnRemote(now, here1, nameB)
	require.True(t, table.decide(keys[shapeDeliver]).gone)
	require.Equal(t, verdictDrop, table.decide(keys[shapeSource]), "until it is believed that it has moved back")
	table.fwd.LearnLocal(now, atB)
	require.True(t, table.decide(keys[shapeToPeer]).gone)
	require.True(t, table.decide(keys[shapeArrive]).gone)
	table.fwd.LearnRemote(now, novel, nameB)
	require.True(t, table.decide(keys[shapeFromPort]).gone)
	table.fwd.LearnLocal(now.Add(time.Minute), novel)
	table.stations.learn(novel, portB, now)
	require.True(t, table.decide(keys[shapeSpread]).gone)
	require.Equal(t, []step{out(portB)}, table.decide(keys[shapeFromPort]).steps)
}

// TestKeysAreDisjoint: a frame has one flow key, so two frames whose keys differ must differ in what the flows match, and a
// flow's match is read back for what it was.
func TestKeysAreReadBack(t *testing.T) {
	table := newTable(t, true)
	r := rand.New(rand.NewPCG(3, 4))
	macs := []overlay.MAC{here1, here2, atB, atC, novel, all, group, {0x33, 0x33, 0, 0, 0, 1}, {1, 0x80, 0xc2, 0, 0, 0}}
	pick := func(n int) int { return r.IntN(n) }
	seen := map[odp.UFID]flowKey{}
	for range 5000 {
		f := frameKey{port: uint32([]int{portA, portB, portTunnel, portTAP}[pick(4)]), src: macs[pick(len(macs))], dst: macs[pick(len(macs))]}
		f.stage = []odp.RecircID{stageFirst, stageLocal, stageArrived}[pick(3)]
		if f.tunneled = f.port == portTunnel; f.tunneled {
			f.vni, f.outer = newVNI(id(nameB), []peer.ShortID{id(self), id(nameC)}[pick(2)]), fromB
			if pick(2) == 0 {
				f.outer = outer{netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1")}
			}
		}
		f.tags = []tags{{}, {first: odp.TypeVLAN}, {first: odp.TypeQinQ, second: odp.TypeVLAN}}[pick(3)]
		if forGroups(f.dst) {
			f.proto = []proto{{}, {set: true, typ: odp.TypeARP}, {set: true, typ: odp.TypeIPv4, ip: 17}, {set: true, typ: odp.TypeIPv4, ip: 6},
				{set: true, typ: odp.TypeIPv6, ip: 17}, {set: true, typ: odp.TypeIPv6, ip: odp.ProtoICMPv6, sub: 135}}[pick(6)]
		}
		k, ok := table.classify(&f)
		if !ok {
			continue
		}
		if other, known := seen[k.ufid()]; known {
			require.Equal(t, other, k)
			continue
		}
		seen[k.ufid()] = k
		_, err := k.match().Complete()
		require.NoError(t, err, "%+v", k)
		got, ok := parseKey(k.match(), k.ufid())
		require.True(t, ok, "%+v", k)
		require.Equal(t, k, got)
		_, ok = parseKey(k.match(), "somebody else's")
		require.False(t, ok)
	}
	require.Greater(t, len(seen), 200)
}

func TestStepsAreReadBack(t *testing.T) {
	for _, steps := range [][]step{
		nil, {out(1)}, {out(1), out(2), tun(self, nameB), {kind: stepUser, port: 5}}, {{kind: stepRecirc, port: 1}},
		{{kind: stepTunnel, port: 3, vni: 5, outer: outer{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")}}},
	} {
		got, ok := parseActions(actions(steps))
		require.True(t, ok)
		require.True(t, sameSteps(steps, got), "%+v", got)
	}
	for _, list := range [][]odp.Action{
		{odp.Trunc(20)}, {setTunnel(1, toB)}, {odp.Userspace{PID: 1}}, {odp.Set{Key: odp.Ethernet{}}, odp.Output(1)},
		{odp.Set{Key: odp.Tunnel{ID: 1 << 30, Dst: addrB}}, odp.Output(1)}, {setTunnel(1, toB), odp.Recirc(1)},
	} {
		_, ok := parseActions(list)
		require.False(t, ok, "%+v", list)
	}
}

// TestJudge says what becomes of a flow after a new decision.
func TestJudge(t *testing.T) {
	old := []step{out(1), tun(self, nameB)}
	gone := func(peer.Name) bool { return false }
	there := func(peer.Name) bool { return true }
	now := epoch
	e := func() *entry { return &entry{steps: slices.Clone(old)} }
	check := func(e *entry, v verdict, reachable func(peer.Name) bool, want judgement, steps []step) {
		t.Helper()
		j, got := judge(e, v, now, 10*time.Second, reachable)
		require.Equal(t, want, j)
		if want == judgePut {
			require.Equal(t, steps, got.steps)
		}
	}
	check(e(), verdict{steps: old}, there, judgeKeep, nil)
	check(e(), verdictGone, there, judgeRemove, nil)
	check(e(), verdict{noFlow: true}, there, judgeRemove, nil)
	check(e(), verdict{steps: old[:1]}, there, judgePut, old[:1]) // the neighbour is there, but others send to it
	check(e(), verdictDrop, there, judgeRemove, nil)
	check(&entry{expires: now.Add(time.Second)}, verdictDrop, there, judgeKeep, nil)
	check(&entry{expires: now.Add(time.Second)}, verdict{steps: old}, there, judgePut, old)

	lost := e()
	check(lost, verdictLost, gone, judgeKeep, nil)
	check(lost, verdict{steps: old[:1]}, gone, judgeKeep, nil)
	check(lost, verdict{steps: []step{out(2)}}, gone, judgePut, []step{out(2), old[1]})
	now = now.Add(11 * time.Second)
	check(lost, verdict{steps: old[:1]}, gone, judgePut, old[:1])
	check(lost, verdictLost, gone, judgeRemove, nil)
	lost = e()
	check(lost, verdictLost, gone, judgeKeep, nil)
	check(lost, verdict{steps: old}, there, judgeKeep, nil)
	require.True(t, lost.lostSince.IsZero(), "it works again")
}

// TestTooBig takes the message that a kernel made of a packet that was too long.
func TestTooBig(t *testing.T) {
	ip := make([]byte, 14+20+8)
	binary.BigEndian.PutUint16(ip[12:], 0x0800)
	ip[14], ip[23], ip[34], ip[35] = 0x45, 1, 3, 4
	copy(ip, here1[:])
	require.True(t, isTooBig(ip))
	table := newTable(t, true)
	d := table.links.arriving(fromB, 6784)[0].d
	f := frameKey{port: portTunnel, dst: here1, tunneled: true, vni: newVNI(id(self), id(nameD)), outer: fromB}
	require.Equal(t, []step{out(portA)}, d.returned(&f, ip), "the sender is here")
	f.vni = newVNI(id(nameB), id(nameD))
	require.Equal(t, []step{tun(nameD, nameB)}, d.returned(&f, ip), "the sender is at the peer where the packet came from")
	f.outer = outer{netip.MustParseAddr("10.9.9.9"), selfAddr}
	require.Empty(t, d.returned(&f, ip), "not from where the packet went")
	ip[35] = 0
	require.False(t, isTooBig(ip))
	require.Empty(t, d.returned(&f, ip))
	v6 := make([]byte, 14+40+8)
	binary.BigEndian.PutUint16(v6[12:], 0x86dd)
	v6[20], v6[54] = 58, 2
	require.True(t, isTooBig(v6))
	for n := range v6 {
		isTooBig(v6[:n]) // does not panic
		isTooBig(ip[:min(n, len(ip))])
	}
}

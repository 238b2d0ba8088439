package sleeve

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

func TestVectorMTUTable(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.MTU {
		l, _, _ := newTestLink(t, testA, v.keyIf(c.Encrypted))
		m := &l.machine
		m.onEstablished(time.Now())
		m.pathMTU(time.Now(), c.PMTU)
		require.Equal(t, c.MTU, m.mtu)
		require.Equal(t, c.MaxPayload, m.maxPayload)
	}
}

func TestVectorPMTUSearch(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.Search {
		l, _, _ := newTestLink(t, testA, v.keyIf(c.Encrypted))
		m := &l.machine
		now := time.Now()
		m.onEstablished(now)
		m.take(nil)
		m.deadline, m.heartbeat = now.Add(time.Hour), now.Add(time.Hour) // not now
		m.pathMTU(now, c.Kernel)
		for _, step := range c.Steps {
			tests := 0
			for m.search.cand == step.Candidate && tests < step.Tests {
				for _, a := range m.take(nil) {
					require.Equal(t, action{kind: doTest, value: step.Candidate}, a)
					require.Equal(t, step.Frame, overlay.HeaderLen+a.value)
					require.Equal(t, step.Length, a.value+m.overhead)
					tests++
				}
				if require.NotZero(t, tests); step.Result == "acked" {
					m.control(now, tagMTUVerified, binary.BigEndian.AppendUint16(nil, uint16(step.Candidate)))
					continue
				}
				require.Equal(t, 10*time.Millisecond<<(tests-1), m.search.due().Sub(now), "doubled each time")
				now = m.next()
				m.tick(now)
			}
			require.Equal(t, step.Tests, tests, "candidate %d of %+v", step.Candidate, c)
		}
		require.False(t, m.search.running())
		require.Equal(t, c.MTU, m.mtu)
		require.Equal(t, c.MaxPayload, m.maxPayload)
	}
}

// TestMTUComesFirst sees that the MTU is asked for before frames can come, which would else be packed to the largest datagram.
func TestMTUComesFirst(t *testing.T) {
	l, _, _ := newTestLink(t, testA, nil)
	l.machine.onEstablished(time.Now())
	var kinds []actionKind
	for _, a := range l.machine.take(nil) {
		kinds = append(kinds, a.kind)
	}
	require.Equal(t, []actionKind{doAskMTU, doReport, doFragTest}, kinds)
}

// Below the usual floor the kernel's word is taken: 2.8 would settle on 552, which does not pass.
func TestSearchBelowFloor(t *testing.T) {
	var s search
	s.start(400)
	now := time.Now()
	for s.running() {
		s.tick(now)
		now = s.due()
	}
	require.Equal(t, 399, s.good)
}

// A test of 59987 would look like a fragmentation test.
func TestSearchAvoidsAmbiguity(t *testing.T) {
	for start := ambiguousMTU - 2; start < ambiguousMTU+2; start++ {
		for real := searchFloor; real <= start; real += 7 {
			s, now := search{}, time.Now()
			for s.start(start); s.running(); {
				if s.cand == ambiguousMTU {
					t.Fatalf("it is tried between %d and %d", s.good, s.bad)
				}
				if s.tick(now); s.cand != 0 && s.cand <= real {
					s.verified(s.cand)
				} else {
					now = s.due()
				}
			}
			if s.good > real || s.good < real-1 {
				t.Fatalf("%d found where %d passes", s.good, real)
			}
		}
	}
}

// ipFrame makes an IPv4 or IPv6 frame of a given length.
func ipFrame(t testing.TB, length int, v6, df bool) []byte {
	t.Helper()
	ethernet := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	if v6 {
		ethernet.EthernetType = layers.EthernetTypeIPv6
		src, dst := make([]byte, 16), make([]byte, 16)
		src[0], src[15], dst[0], dst[15] = 0xfd, 1, 0xfd, 2
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: src, DstIP: dst}
		length -= ipv6Header
	} else {
		v4 := &layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: layers.IPProtocolUDP, SrcIP: []byte{10, 32, 0, 1}, DstIP: []byte{10, 40, 0, 2}}
		if df {
			v4.Flags = layers.IPv4DontFragment
		}
		ip = v4
		length -= ipv4MinHeader
	}
	payload := make([]byte, length-overlay.HeaderLen)
	for i := range payload {
		payload[i] = byte(i)
	}
	buf := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ethernet, ip, gopacket.Payload(payload)))
	return buf.Bytes()
}

func TestVectorSendPathChoice(t *testing.T) {
	want := map[string]path{
		"DF channel": pathD, "non-DF channel": pathN, "dropped": pathTooBig,
		"dropped, ICMP fragmentation-needed sent back towards the source peer": pathAnswer,
		"split into 2 inner fragments, DF channel":                             pathFragment,
	}
	for _, c := range loadVectors(t).Paths {
		data := make([]byte, c.Length)
		switch {
		case strings.HasPrefix(c.Name, "IPv4"):
			data = ipFrame(t, c.Length, false, strings.HasPrefix(c.Name, "IPv4 DF"))
		case strings.HasPrefix(c.Name, "ARP"):
			data[12], data[13] = 8, 6
		default:
			data[12], data[13] = 0x86, 0xdd // the type, but no IPv6 packet behind it
		}
		p, known := want[c.Result]
		require.True(t, known, c.Result)
		require.Equal(t, p, choosePath(&overlay.Frame{Data: data, Flooded: c.Flooded}, c.MTU, c.Trusted), c.Name)
	}
}

func TestPathIPv6(t *testing.T) {
	big := ipFrame(t, 2000, true, false)
	require.Equal(t, pathAnswer, choosePath(&overlay.Frame{Data: big}, 1438, true))
	require.Equal(t, pathN, choosePath(&overlay.Frame{Data: big, Flooded: true}, 1438, true))
	require.Equal(t, pathN, choosePath(&overlay.Frame{Data: big}, 1279, false), "IPv6 cannot be told less than 1280")
	require.Equal(t, pathN, choosePath(&overlay.Frame{Data: ipFrame(t, 1000, true, false)}, 1438, true))
}

func TestVectorBatching(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.Batching.Cases {
		var queued []int
		if json.Unmarshal(c.Queued, &queued) != nil {
			require.JSONEq(t, `"101 x 60"`, string(c.Queued))
			for range 101 {
				queued = append(queued, 60)
			}
		}
		l, conn, _ := newTestLink(t, testA, v.keyIf(c.Encrypted))
		l.maxPayload.Store(int32(c.MaxPayload))
		s := newSender()
		s.begin(l, remoteB)
		p := &s.may
		if c.DF {
			p = &s.dont
		}
		for _, n := range queued {
			p.add(&overlay.Frame{Data: make([]byte, n), Src: testA, Dst: testB})
		}
		s.end()
		require.Len(t, conn.written, len(c.Datagrams), c.Name)
		for i, d := range c.Datagrams {
			for range d.Count {
				d.Frames = append(d.Frames, d.Each)
			}
			require.Len(t, conn.written[i].Data, d.Length, c.Name)
			require.Equal(t, d.Frames, recordLengths(t, l, conn.written[i].Data), c.Name)
		}
	}
}

func recordLengths(t *testing.T, from *link, datagram []byte) (lengths []int) {
	t.Helper()
	var key *[32]byte
	if from.params.Key != nil {
		key = (*[32]byte)(from.params.Key)
	}
	to, _, _ := newTestLink(t, testB, key)
	r := newReader(to.overlay)
	require.True(t, r.choose(testA))
	defer r.flush()
	body, ok := r.open(datagram[6:])
	require.True(t, ok)
	walk := records{rest: body}
	for f, ok := walk.next(); ok; f, ok = walk.next() {
		lengths = append(lengths, len(f.Data))
	}
	require.NoError(t, walk.err)
	return lengths
}

func TestVectorInnerFragmentation(t *testing.T) {
	for _, c := range loadVectors(t).Fragmentation {
		f, ok := newFragments(c.Frame, c.MTU)
		require.True(t, ok, c.Name)
		for _, want := range c.Segments {
			got, more := f.appendNext(nil)
			require.True(t, more, c.Name)
			require.EqualValues(t, want, got, c.Name)
		}
		_, more := f.appendNext(nil)
		require.False(t, more)
	}
}

func TestFragmentsRefuse(t *testing.T) {
	good := ipFrame(t, 1014, false, false)
	spoil := func(f func(b []byte)) []byte {
		b := append([]byte(nil), good...)
		f(b)
		return b
	}
	for name, b := range map[string][]byte{
		"longer than the frame":   spoil(func(b []byte) { binary.BigEndian.PutUint16(b[16:], 1001) }),
		"shorter than its header": spoil(func(b []byte) { binary.BigEndian.PutUint16(b[16:], 19) }),
		"beyond the largest":      spoil(func(b []byte) { binary.BigEndian.PutUint16(b[20:], 0x1fff) }),
		"not IPv4":                spoil(func(b []byte) { b[14] = 0x65 }),
	} {
		_, ok := newFragments(b, 500)
		require.False(t, ok, name)
	}
	_, ok := newFragments(good, 27)
	require.False(t, ok, "no room for eight bytes")
	f, ok := newFragments(spoil(func(b []byte) { binary.BigEndian.PutUint16(b[16:], 0) }), 500)
	require.True(t, ok, "length zero stands for all there is")
	require.Len(t, f.rest, 980)
}

func TestVectorFragmentationNeeded(t *testing.T) {
	for _, c := range loadVectors(t).ICMP {
		frame := make([]byte, c.Length)
		n := copy(frame, c.Head)
		for i := range frame[n:] {
			frame[n+i] = frame[n-1] + byte(i+1)
		}
		got, ok := appendTooBig(nil, frame, c.MTU)
		require.True(t, ok, c.Name)
		require.EqualValues(t, c.Reply, got, c.Name)
	}
}

func TestPacketTooBig(t *testing.T) {
	frame := ipFrame(t, 3000, true, false)
	got, ok := appendTooBig(nil, frame, 1400)
	require.True(t, ok)
	require.Len(t, got, overlay.HeaderLen+minIPv6MTU)
	packet := gopacket.NewPacket(got, layers.LayerTypeEthernet, gopacket.Default)
	ip := packet.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	icmp := packet.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	require.Equal(t, layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0), icmp.TypeCode)
	require.Equal(t, frame[22:38], []byte(ip.DstIP))
	require.Equal(t, frame[38:54], []byte(ip.SrcIP))
	require.Equal(t, frame[6:12], got[0:6])
	require.EqualValues(t, 1400, binary.BigEndian.Uint32(got[58:]))
	require.Equal(t, frame[14:14+1232], got[62:])

	want := icmp.Checksum // and once more, by another hand
	require.NoError(t, icmp.SetNetworkLayerForChecksum(ip))
	buf := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true}, icmp, gopacket.Payload(icmp.Payload)))
	require.Equal(t, want, icmp.Checksum)
}

func TestTooBigStaysSilent(t *testing.T) {
	v4, v6 := ipFrame(t, 2000, false, true), ipFrame(t, 2000, true, false)
	change := func(b []byte, f func(b []byte)) []byte {
		b = append([]byte(nil), b...)
		f(b)
		return b
	}
	for name, b := range map[string][]byte{
		"to a group address":     change(v4, func(b []byte) { b[0] = 1 }),
		"to a multicast host":    change(v4, func(b []byte) { b[30] = 224 }),
		"from nowhere":           change(v4, func(b []byte) { b[26] = 0 }),
		"a later fragment":       change(v4, func(b []byte) { b[21] = 1 }),
		"an ICMP error":          change(v4, func(b []byte) { b[23], b[34] = 1, 3 }),
		"no payload to quote":    v4[:40],
		"IPv6 to a group":        change(v6, func(b []byte) { b[38] = 0xff }),
		"IPv6 from a group":      change(v6, func(b []byte) { b[22] = 0xff }),
		"IPv6 from nowhere":      change(v6, func(b []byte) { clear(b[22:38]) }),
		"an ICMPv6 error":        change(v6, func(b []byte) { b[20], b[54] = 58, 2 }),
		"an ICMPv6 without type": change(v6, func(b []byte) { b[20] = 58 })[:54],
		"ARP":                    change(v4, func(b []byte) { b[13] = 6 }),
		"no header":              v4[:10],
	} {
		_, ok := appendTooBig(nil, b, 1400)
		require.False(t, ok, name)
	}
	for name, b := range map[string][]byte{
		"ping":   change(v4, func(b []byte) { b[23], b[34] = 1, 8 }),
		"ping 6": change(v6, func(b []byte) { b[20], b[54] = 58, 128 }),
	} {
		_, ok := appendTooBig(nil, b, 1400)
		require.True(t, ok, name)
	}
}

func TestLimiter(t *testing.T) {
	l := limiter{interval: time.Second, burst: 3}
	now := time.Now()
	for range 3 {
		require.True(t, l.allow(now))
	}
	require.False(t, l.allow(now))
	require.False(t, l.allow(now.Add(999*time.Millisecond)))
	require.True(t, l.allow(now.Add(time.Second)))
	require.False(t, l.allow(now.Add(time.Second)))
	for range 3 {
		require.True(t, l.allow(now.Add(time.Hour)))
	}
	require.False(t, l.allow(now.Add(time.Hour)))
}

func FuzzTooBig(f *testing.F) {
	f.Add(ipFrame(f, 2000, false, true), 1438)
	f.Add(ipFrame(f, 2000, true, true), 1280)
	f.Add(tag(ipFrame(f, 2000, false, false)), 1400)
	f.Add(tag(tag(ipFrame(f, 2000, true, false))), 1400)
	for _, c := range loadVectors(f).Fragmentation {
		f.Add([]byte(c.Frame), c.MTU)
	}
	f.Fuzz(func(t *testing.T, frame []byte, mtu int) {
		if mtu < minTestMTU || mtu > maxIP || len(frame) > MaxDatagram {
			return
		}
		if reply, ok := appendTooBig(nil, frame, mtu); ok && len(reply) > overlay.HeaderLen+maxTags*vlanTagLen+minIPv6MTU {
			t.Fatal("reply too long")
		}
		pieces, ok := newFragments(frame, mtu)
		if !ok {
			return
		}
		want, got := len(pieces.rest), 0
		for range len(frame) {
			b, more := pieces.appendNext(nil)
			if !more {
				break
			}
			p, ok := parseIPv4At(b, pieces.at)
			if !ok || len(b) > max(mtu+overlay.HeaderLen, minEthernet) {
				t.Fatal("bad fragment")
			}
			payload, _ := p.payload()
			got += len(payload)
		}
		if got != want {
			t.Fatalf("%d bytes of %d", got, want)
		}
	})
}

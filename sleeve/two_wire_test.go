package sleeve

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// ends2 is a link of sleeve2 from A, which dialled, to B, without goroutines.
type ends2 struct {
	a, b     *link2
	conn     *discard // of A
	reader   *reader2 // of B
	received *[]overlay.Frame
}

func newEnds2(t testing.TB, key *[32]byte, ciphers byte) *ends2 {
	t.Helper()
	prepare := func(self peer.Name) (*link2, *discard, *[]overlay.Frame) {
		old, conn, received := newTestLink(t, self, key)
		p := old.params
		prepared, err := old.overlay.Sleeve2().Prepare(p)
		require.NoError(t, err)
		return prepared.(*link2), conn, received
	}
	e := &ends2{}
	e.a, e.conn, _ = prepare(testA)
	e.b, _, e.received = prepare(testB)
	now := time.Now()
	for i, l := range []*link2{e.a, e.b} {
		l.overlay.unregister(l)
		l.own = hello{link: 0x01020304 + uint32(i), check: [check2Len]byte{9, 8, 7, byte(i)}, abilities: ciphers}
		l.overlay.links.change(func(links map[uint32]*link2) { links[l.own.link] = l })
		l.machine.confirm(now)
		l.machine.remote = remoteA
	}
	e.a.machine.remote = remoteB
	e.a.Control(tag2Hello, e.b.own.append(nil))
	e.b.Control(tag2Hello, e.a.own.append(nil))
	e.a.step(func(m *machine2, now time.Time) {
		m.established = true
		m.pathMTU(now, 1500)
	})
	e.reader = newReader2(e.b.overlay)
	return e
}

// send sends frames from A and returns the datagrams.
func (e *ends2) send(frames ...overlay.Frame) (out [][]byte) {
	e.conn.written = nil
	e.a.Send(frames)
	for _, m := range e.conn.written {
		out = append(out, m.Data)
	}
	return out
}

// receive gives datagrams to B and returns the frames that came out, cut.
func (e *ends2) receive(t testing.TB, datagrams ...[]byte) (complete [][]byte, handed int) {
	t.Helper()
	*e.received = nil
	for _, d := range datagrams {
		e.reader.datagram(remoteA, d)
	}
	e.reader.flush()
	for _, f := range *e.received {
		complete = append(complete, cutAll(t, f)...)
	}
	return complete, len(*e.received)
}

func cutAll(t testing.TB, f overlay.Frame) (out [][]byte) {
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

// superFrame makes a super-frame of TCP or UDP.
func superFrame(t testing.TB, protocol overlay.Protocol, payload, size int) overlay.Frame {
	t.Helper()
	data := make([]byte, payload)
	for i := range data {
		data[i] = byte(i*7) ^ byte(i>>8)
	}
	v6, udp := protocol == overlay.TCP6 || protocol == overlay.UDP6, protocol >= overlay.UDP4
	next := layers.IPProtocolTCP
	if udp {
		next = layers.IPProtocolUDP
	}
	ethernet := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer = &layers.IPv4{
		Version: 4, TTL: 60, Id: 65530, Flags: layers.IPv4DontFragment, Protocol: next, SrcIP: net.IP{10, 0, 0, 1}, DstIP: net.IP{10, 0, 0, 2},
	}
	transport := uint16(34)
	if v6 {
		ethernet.EthernetType, transport = layers.EthernetTypeIPv6, 54
		ip = &layers.IPv6{Version: 6, HopLimit: 60, NextHeader: next, SrcIP: net.ParseIP("fd00::1"), DstIP: net.ParseIP("fd00::2")}
	}
	var l4 gopacket.SerializableLayer = &layers.TCP{SrcPort: 1, DstPort: 2, Seq: 0xffffff00, ACK: true, PSH: true, FIN: true, CWR: true, Window: 9}
	if udp {
		l4 = &layers.UDP{SrcPort: 1, DstPort: 2}
	}
	buf := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, ethernet, ip, l4, gopacket.Payload(data)))
	return overlay.Frame{
		Data: buf.Bytes(), Src: testA, Dst: testB,
		Segments: overlay.Segments{Protocol: protocol, Size: uint16(size), Transport: transport},
	}
}

// TestSuperFrames2 sends super-frames and loses and reorders datagrams on the way: what arrives are the segments that the
// super-frame is made of, each complete, and all of it is one super-frame if nothing happened.
func TestSuperFrames2(t *testing.T) {
	for _, key := range []*[32]byte{nil, {1}} {
		for _, protocol := range []overlay.Protocol{overlay.TCP4, overlay.TCP6, overlay.UDP4, overlay.UDP6} {
			for _, c := range []struct{ payload, size int }{{1300 * 4, 1300}, {60000, 1300}, {1301, 1300}, {5000, 1000}, {700, 1300}, {2500, 10}} {
				for _, relayed := range []bool{false, true} {
					e := newEnds2(t, key, fastAES)
					f := superFrame(t, protocol, c.payload, c.size)
					if relayed {
						f.Src, f.Dst, f.Hops = 77, 78, 3
					}
					want := cutAll(t, f)
					sent := e.send(f)
					require.Len(t, sent, len(want))
					for _, d := range sent {
						require.LessOrEqual(t, len(d), 1472)
					}
					got, handed := e.receive(t, sent...)
					require.Equal(t, want, got)
					require.Equal(t, 1, handed)
					first := (*e.received)[0]
					require.Equal(t, []any{f.Src, f.Dst, f.Hops + 1}, []any{first.Src, first.Dst, first.Hops})

					sent = e.send(f)
					var some, expected [][]byte
					for i := range sent {
						if i%5 != 1 && i != 8 {
							some, expected = append(some, sent[i]), append(expected, want[i])
						}
					}
					got, _ = e.receive(t, some...)
					require.Equal(t, expected, got, "gaps")

					sent = e.send(f)
					var backwards, reversed [][]byte
					for i := len(sent) - 1; i >= 0; i-- {
						backwards, reversed = append(backwards, sent[i]), append(reversed, want[i])
					}
					got, _ = e.receive(t, append(backwards, sent...)...)
					require.Equal(t, reversed, got, "reordered, and no more than once")
				}
			}
		}
	}
}

// TestMixed2 sends super-frames among others: the order is kept.
func TestMixed2(t *testing.T) {
	e := newEnds2(t, &[32]byte{1}, fastAES)
	var frames []overlay.Frame
	var want [][]byte
	for i := range 40 {
		f := overlay.Frame{Data: ipFrame(t, 60+i*20, false, true), Src: testA, Dst: testB}
		if i%7 == 3 {
			f = superFrame(t, overlay.TCP4, 20000+i, 1200)
		} else if i%7 == 4 {
			f.Src = 99
		}
		frames, want = append(frames, f), append(want, cutAll(t, f)...)
	}
	got, _ := e.receive(t, e.send(frames...)...)
	require.Equal(t, want, got)
	require.Empty(t, e.a.Status().Drops)
	require.Empty(t, e.b.Status().Drops)
}

// TestTooBig2 gives a link what does not fit its path.
func TestTooBig2(t *testing.T) {
	e := newEnds2(t, &[32]byte{1}, fastAES)
	answers := 0
	e.a.params.Receive = func(f []overlay.Frame) { answers += len(f) }
	require.Empty(t, e.send(superFrame(t, overlay.TCP4, 20000, 5000)), "segments that must not be cut")
	require.Equal(t, 4, answers)
	can := superFrame(t, overlay.UDP4, 5000, 2500)
	can.Data[20] &^= 0x40 // may be cut
	got, _ := e.receive(t, e.send(can)...)
	require.Len(t, got, 4)
	require.Empty(t, e.send(overlay.Frame{Data: ipFrame(t, 1600, false, true), Src: testA, Dst: testB, Hops: maxHops}))
	require.EqualValues(t, 1, e.a.Status().Drops["too_many_hops"])
}

func TestCiphers2(t *testing.T) {
	for _, c := range []struct {
		key     *[32]byte
		ciphers byte
		want    string
	}{{&[32]byte{1}, fastAES, "AES-256-GCM"}, {&[32]byte{1}, 0, "ChaCha20-Poly1305"}, {nil, fastAES, ""}} {
		e := newEnds2(t, c.key, c.ciphers)
		require.Equal(t, c.want, e.a.Status().Cipher)
		f := overlay.Frame{Data: ipFrame(t, 200, false, true), Src: testA, Dst: testB}
		sent := e.send(f)
		require.Len(t, sent, 1)
		for i := range sent[0] {
			if c.key == nil && (i < len(sent[0])-check2Len) {
				continue // only the mark is checked
			}
			if i == 4 {
				continue // another link
			}
			bad := append([]byte(nil), sent[0]...)
			bad[i] ^= 1
			got, _ := e.receive(t, bad)
			require.Empty(t, got, "byte %d changed", i)
		}
		got, _ := e.receive(t, sent[0])
		require.Equal(t, [][]byte{f.Data}, got)
	}
}

// vector2 is a datagram with what it was made of, all bytes in hexadecimal.
type vector2 struct {
	Name     string `json:"name"`
	Cipher   string `json:"cipher"`
	Key      string `json:"session_key,omitempty"`
	UID      string `json:"connection_uid"`
	Hello    string `json:"hello_of_receiver"`
	Source   string `json:"source_peer"`
	Dest     string `json:"destination_peer"`
	Hops     byte   `json:"hops_before"`
	Segment  uint16 `json:"segment_size,omitempty"`
	Frame    string `json:"frame"`
	Epoch    uint64 `json:"epoch"`
	Datagram string `json:"datagram"`
}

// TestVectors2 holds the format still: testdata/sleeve2.json goes with sleeve2.md.
func TestVectors2(t *testing.T) {
	var got []vector2
	for _, c := range []struct {
		cipher  string
		key     *[32]byte
		ciphers byte
	}{{"none", nil, 0}, {"AES-256-GCM", &[32]byte{1, 2, 3}, fastAES}, {"ChaCha20-Poly1305", &[32]byte{1, 2, 3}, 0}} {
		e := newEnds2(t, c.key, c.ciphers)
		for _, f := range []struct {
			name  string
			frame overlay.Frame
		}{
			{"frame between the ends", overlay.Frame{Data: ipFrame(t, 60, false, true), Src: testA, Dst: testB}},
			{"relayed frame", overlay.Frame{Data: ipFrame(t, 60, false, true), Src: 0x0a0000000077, Dst: 0x0a0000000078, Hops: 2}},
			{"super-frame of one part", superFrame(t, overlay.TCP4, 10, 20)},
			{"next epoch", overlay.Frame{Data: ipFrame(t, 60, false, true), Src: testA, Dst: testB}},
		} {
			if f.name == "next epoch" {
				e.a.rekey()
			}
			v := vector2{
				Name: f.name, Cipher: c.cipher, UID: fmt.Sprintf("%016x", uint64(uid)), Hello: hex.EncodeToString(e.b.own.append(nil)),
				Source: f.frame.Src.String(), Dest: f.frame.Dst.String(), Hops: f.frame.Hops, Segment: f.frame.Segments.Size,
				Frame: hex.EncodeToString(f.frame.Data), Epoch: e.a.sealing.Load().epoch,
			}
			if c.key != nil {
				v.Key = hex.EncodeToString(c.key[:])
			}
			sent := e.send(f.frame)
			require.Len(t, sent, 1)
			v.Datagram = hex.EncodeToString(sent[0])
			got = append(got, v)
			frames, _ := e.receive(t, sent[0])
			require.Len(t, frames, 1)
		}
	}
	var want []vector2
	file, err := os.ReadFile("testdata/sleeve2.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(file, &want))
	require.Equal(t, want, got)
}

func TestAllocatesNothing2(t *testing.T) {
	if RaceDetector {
		t.Skip("pools lose things on purpose under the race detector")
	}
	for _, key := range []*[32]byte{nil, {1}} {
		e := newEnds2(t, key, fastAES)
		batches := map[string][]overlay.Frame{
			"small": batchOf(t, 64, 106), "large": batchOf(t, 64, 1300), "super": {superFrame(t, overlay.TCP4, 60000, 1300)},
		}
		for name, frames := range batches {
			const runs = 100
			var all [][]byte
			for range runs + 2 {
				all = append(all, e.send(frames...)...)
			}
			each, i, n := len(all)/(runs+2), 0, 0
			e.b.params.Receive = func(f []overlay.Frame) { n += len(f) }
			read := func() {
				for range each {
					e.reader.datagram(remoteA, all[i])
					i++
				}
				e.reader.flush()
			}
			read() // pools, windows
			require.Less(t, testing.AllocsPerRun(runs, read), 0.1, "receiving %s", name)
			require.NotZero(t, n)
			e.a.conn = new(sink)
			e.a.Send(frames)
			require.Less(t, testing.AllocsPerRun(runs, func() { e.a.Send(frames) }), 0.1, "sending %s", name)
			e.a.life.conn = e.conn
		}
	}
}

// FuzzOpened2 takes what a peer with the key may send, well or ill.
func FuzzOpened2(f *testing.F) {
	e := newEnds2(f, nil, 0)
	for _, frame := range []overlay.Frame{
		superFrame(f, overlay.TCP4, 3000, 1000), superFrame(f, overlay.UDP6, 3000, 1000),
		{Data: ipFrame(f, 100, false, true), Src: testA, Dst: testB}, {Data: ipFrame(f, 100, true, true), Src: 5, Dst: testB},
	} {
		for _, d := range e.send(frame) {
			f.Add(d[header2Len:len(d)-check2Len], []byte{})
			f.Add(d[header2Len:len(d)-check2Len], d[header2Len:len(d)-check2Len])
		}
	}
	f.Add(appendPing(nil, 7, 100), appendPong(nil, 1, 1000))
	number := uint64(1 << 30)
	f.Fuzz(func(t *testing.T, first, then []byte) {
		if len(first)+len(then) > 4096 {
			return
		}
		*e.received = nil
		for _, content := range [][]byte{first, then, first} {
			d := make([]byte, header2Len)
			number++
			putHeader2(d, 0, e.b.own.link, number)
			d = append(append(d, content...), e.b.own.check[:]...)
			e.reader.datagram(remoteA, d)
		}
		e.reader.flush()
		total := 0
		for _, f := range *e.received {
			total += len(f.Data)
			if len(f.Data) < overlay.HeaderLen || !f.Src.IsValid() || !f.Dst.IsValid() || f.Hops == 0 {
				t.Fatal("a frame that should have been dropped")
			}
			if _, err := overlay.NewSegmenter(f.Data, f.Segments); err != nil {
				t.Fatal("a super-frame that is none")
			}
		}
		if total > 2*len(first)+len(then) {
			t.Fatal("more comes out than went in")
		}
	})
}

// FuzzSealed2 takes what strangers may send.
func FuzzSealed2(f *testing.F) {
	e := newEnds2(f, &[32]byte{1}, fastAES)
	for _, d := range e.send(superFrame(f, overlay.TCP4, 3000, 1000)) {
		f.Add(d[:len(d)-1])
		f.Add(append(d, 0))
	}
	f.Add([]byte{marker2})
	f.Add(e.b.own.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		*e.received = nil
		e.reader.datagram(remoteA, b)
		e.reader.flush()
		e.b.Control(tag2Hello, b)
		if h, ok := parseHello(b); ok && !bytes.Equal(h.append(nil), b[:hello2Len]) {
			t.Fatal("a hello is not what it says")
		}
		if len(*e.received) > 0 {
			t.Fatal("a forged datagram opened")
		}
	})
}

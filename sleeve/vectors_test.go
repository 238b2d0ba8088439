package sleeve

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// vectors are the parts of the specification's vectors that this package is tested with.
type vectors struct {
	Batching struct {
		Cases []struct {
			Name       string
			DF         bool `json:"df_channel"`
			Encrypted  bool
			MaxPayload int             `json:"max_udp_payload"`
			Queued     json.RawMessage `json:"queued_frame_lengths"`
			Datagrams  []struct {
				Frames []int
				Each   int
				Count  int `json:"frame_count"`
				Length int `json:"udp_payload_length"`
			}
		}
	}
	Control struct {
		Messages []struct {
			Tag     byte     `json:"sleeve_tag"`
			Payload hexBytes `json:"sleeve_payload"`
		}
	} `json:"control_messages"`
	Encrypted struct {
		Key       hexBytes `json:"session_key"`
		Datagrams []vectorDatagram
	} `json:"encrypted_datagrams"`
	Plain     []vectorDatagram `json:"plain_datagrams"`
	Heartbeat struct {
		UID         hexBytes `json:"connection_uid"`
		Frame       hexBytes
		Plain       hexBytes `json:"plain_A_to_B"`
		EncryptedAB hexBytes `json:"encrypted_A_to_B_seq0_df"`
		EncryptedBA hexBytes `json:"encrypted_B_to_A_seq0_df"`
	}
	Special []struct {
		DF        bool `json:"df_channel"`
		Encrypted bool
		Frame     int      `json:"frame_length"`
		Length    int      `json:"udp_payload_length"`
		Head      hexBytes `json:"udp_payload_head_64"`
		SHA256    hexBytes `json:"udp_payload_sha256"`
	} `json:"special_frames"`
	Malformed []struct {
		Name      string
		Body      hexBytes `json:"after_sender_name"`
		Encrypted bool
		Delivered int `json:"frames_delivered"`
		Outcome   string
	} `json:"malformed_input"`
	MTU []struct {
		Encrypted  bool
		PMTU       int `json:"underlay_pmtu"`
		MTU        int `json:"overlay_mtu"`
		MaxPayload int `json:"max_udp_payload"`
	} `json:"mtu_table"`
	Search []struct {
		Encrypted  bool
		Kernel     int `json:"kernel_pmtu"`
		Real       int `json:"real_path_pmtu"`
		MTU        int `json:"effective_mtu"`
		MaxPayload int `json:"max_udp_payload"`
		Steps      []struct {
			Candidate int
			Frame     int `json:"frame_length"`
			Length    int `json:"udp_payload_length"`
			Tests     int `json:"tests_sent"`
			Result    string
		}
	} `json:"pmtu_search"`
	Paths []struct {
		Name    string
		Flooded bool `json:"broadcast_hint"`
		Trusted bool `json:"fragmentation_trusted"`
		Length  int  `json:"frame_length"`
		MTU     int  `json:"overlay_mtu"`
		Result  string
	} `json:"send_path_choice"`
	ICMP []struct {
		Name   string
		MTU    int      `json:"overlay_mtu"`
		Head   hexBytes `json:"oversize_frame_first_100"`
		Length int      `json:"oversize_frame_length"`
		Reply  hexBytes `json:"reply_frame"`
	} `json:"icmp_frag_needed"`
	Fragmentation []struct {
		Name     string
		MTU      int
		Frame    hexBytes
		Segments []hexBytes
	} `json:"inner_fragmentation"`
}

type vectorDatagram struct {
	DF      bool
	Sender  hexBytes
	Payload hexBytes `json:"udp_payload"`
	Frames  []struct {
		Src   hexBytes `json:"src_peer"`
		Dst   hexBytes `json:"dst_peer"`
		Frame hexBytes
	}
	Initiator bool   `json:"sender_is_initiator"`
	Sequence  uint64 `json:"sequence"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func (h hexBytes) name(t testing.TB) peer.Name {
	n, err := peer.FromBytes(h)
	require.NoError(t, err)
	return n
}

func loadVectors(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/sleeve.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &v))
	return v
}

const (
	testA = peer.Name(0x0a0000000001)
	testB = peer.Name(0x0a0000000002)
	uid   = uint64(0x0123456789abcdef)
)

var (
	remoteA = netip.MustParseAddrPort("10.0.0.1:6783")
	remoteB = netip.MustParseAddrPort("10.0.0.2:6783")
)

// discard is a Conn that keeps what is written.
type discard struct {
	written []Message
	err     error
}

func (*discard) Queues() int                           { return 1 }
func (*discard) ReadBatch(int, []Message) (int, error) { select {} }
func (*discard) PathMTU(netip.Addr) (int, error)       { return 1500, nil }
func (*discard) LocalAddr() netip.AddrPort             { return remoteA }
func (*discard) Close() error                          { return nil }
func (d *discard) WriteBatch(msgs []Message) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	for _, m := range msgs {
		m.Data = append([]byte(nil), m.Data...)
		d.written = append(d.written, m)
	}
	return len(msgs), nil
}

// newTestLink makes one end of a link between A, which dials, and B, without a goroutine; it notes what is received.
func newTestLink(t testing.TB, self peer.Name, key *[32]byte) (*link, *discard, *[]overlay.Frame) {
	t.Helper()
	conn, received := new(discard), new([]overlay.Frame)
	o, err := New(Config{Self: self, Socket: conn})
	require.NoError(t, err)
	p := overlay.Params{
		Self: testA, Remote: testB, Local: remoteA, RemoteAddr: remoteB, Outbound: true, ConnUID: uid, Key: key,
		SendControl: func(byte, []byte) error { return nil },
		Report:      func(overlay.Event) {},
		Receive: func(frames []overlay.Frame) {
			for _, f := range frames {
				f.Data = append([]byte(nil), f.Data...)
				*received = append(*received, f)
			}
		},
	}
	if self == testB {
		p.Self, p.Remote, p.Local, p.RemoteAddr, p.Outbound = testB, testA, remoteB, remoteA, false
	}
	prepared, err := o.Prepare(p)
	require.NoError(t, err)
	l := prepared.(*link)
	l.machine.confirm(time.Now())
	l.machine.remote = p.RemoteAddr
	l.machine.take(nil)
	l.publish()
	o.register(l)
	return l, conn, received
}

func (v *vectors) key() *[32]byte { k := [32]byte(v.Encrypted.Key); return &k }

func (v *vectors) keyIf(encrypted bool) *[32]byte {
	if encrypted {
		return v.key()
	}
	return nil
}

// pack packs frames into one datagram of a channel.
func pack(l *link, ch crypto.Channel, frames []overlay.Frame) {
	s := newSender()
	s.begin(l, *l.remote.Load())
	p := &s.may
	if ch == crypto.DontFragment {
		p = &s.dont
	}
	p.limit = MaxDatagram
	for i := range frames {
		p.add(&frames[i])
	}
	s.end()
}

func (d *vectorDatagram) overlayFrames(t testing.TB) (frames []overlay.Frame) {
	for _, f := range d.Frames {
		frames = append(frames, overlay.Frame{Data: f.Frame, Src: f.Src.name(t), Dst: f.Dst.name(t)})
	}
	return frames
}

func TestVectorPlainDatagrams(t *testing.T) {
	v := loadVectors(t)
	for _, d := range v.Plain {
		l, conn, _ := newTestLink(t, testA, nil)
		l.params.Self = d.Sender.name(t)
		pack(l, crypto.DontFragment, d.overlayFrames(t))
		require.Len(t, conn.written, 1)
		require.EqualValues(t, d.Payload, conn.written[0].Data)

		back, _, received := newTestLink(t, testB, nil)
		back.params.Remote = d.Sender.name(t)
		back.overlay.register(back)
		r := newReader(back.overlay)
		r.datagram(remoteA, d.Payload)
		r.flush()
		require.Equal(t, d.overlayFrames(t), *received)
	}
}

func TestVectorEncryptedDatagrams(t *testing.T) {
	v := loadVectors(t)
	for _, d := range v.Encrypted.Datagrams {
		from, to := testA, testB
		if !d.Initiator {
			from, to = testB, testA
		}
		require.Equal(t, from, d.Sender.name(t))
		l, _, received := newTestLink(t, to, v.key())
		r := newReader(l.overlay)
		r.datagram(remoteA, d.Payload)
		r.datagram(remoteA, d.Payload) // replayed
		r.flush()
		require.Equal(t, d.overlayFrames(t), *received)
		require.Equal(t, map[string]uint64{"replayed": 1}, l.Status().Drops)
		if d.Sequence > 1 {
			continue // the sealer counts from 0
		}
		ch := crypto.Fragmentable
		if d.DF {
			ch = crypto.DontFragment
		}
		s, conn, _ := newTestLink(t, from, v.key())
		for range d.Sequence + 1 {
			pack(s, ch, d.overlayFrames(t))
		}
		require.EqualValues(t, d.Payload, conn.written[d.Sequence].Data)
		require.Equal(t, d.DF, conn.written[d.Sequence].DontFragment)
	}
}

func TestVectorHeartbeat(t *testing.T) {
	v := loadVectors(t)
	require.Equal(t, uid, binary.BigEndian.Uint64(v.Heartbeat.UID))
	require.EqualValues(t, v.Heartbeat.Frame, appendHeartbeat(nil, uid))
	for _, c := range []struct {
		self peer.Name
		key  *[32]byte
		want []byte
	}{
		{testA, nil, v.Heartbeat.Plain}, {testA, v.key(), v.Heartbeat.EncryptedAB}, {testB, v.key(), v.Heartbeat.EncryptedBA},
	} {
		l, conn, _ := newTestLink(t, c.self, c.key)
		l.do(action{kind: doHeartbeat})
		require.Equal(t, c.want, conn.written[0].Data)
		require.True(t, conn.written[0].DontFragment)

		to := testB
		if c.self == testB {
			to = testA
		}
		other, _, received := newTestLink(t, to, c.key)
		r := newReader(other.overlay)
		r.datagram(netip.MustParseAddrPort("192.0.2.1:99"), c.want)
		r.flush()
		require.True(t, other.machine.heard)
		require.Equal(t, "192.0.2.1:99", other.Status().Remote.String())
		require.Empty(t, *received, "not a frame for others")
	}
}

func TestVectorSpecialFrames(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.Special {
		l, conn, _ := newTestLink(t, testA, v.keyIf(c.Encrypted))
		a := action{kind: doFragTest}
		if c.DF {
			a = action{kind: doTest, value: c.Frame - overlay.HeaderLen}
		}
		l.do(a)
		m := conn.written[0]
		require.Equal(t, c.DF, m.DontFragment)
		require.Len(t, m.Data, c.Length)
		require.EqualValues(t, c.Head, m.Data[:len(c.Head)])
		hash := sha256.Sum256(m.Data)
		require.EqualValues(t, c.SHA256, hash[:])

		other, _, _ := newTestLink(t, testB, v.keyIf(c.Encrypted))
		r := newReader(other.overlay)
		r.datagram(remoteA, m.Data)
		want := action{kind: doControl, value: tagFragmentsOK}
		if c.DF {
			want = action{kind: doControl, value: tagMTUVerified, mtu: c.Frame - overlay.HeaderLen}
		}
		require.Equal(t, []action{want}, other.machine.actions)
		r.flush()
	}
}

func TestVectorControlMessages(t *testing.T) {
	v := loadVectors(t)
	l, _, _ := newTestLink(t, testA, nil)
	type message struct {
		tag     byte
		payload string
	}
	var sent []message
	l.params.SendControl = func(tag byte, payload []byte) error {
		sent = append(sent, message{tag, hex.EncodeToString(payload)})
		return nil
	}
	for _, a := range []action{{value: 1}, {value: 2}, {value: 3, mtu: 1438}, {value: 3, mtu: 1414}} {
		a.kind = doControl
		l.do(a)
	}
	for i, m := range v.Control.Messages {
		require.Equal(t, message{m.Tag, hex.EncodeToString(m.Payload)}, sent[i])
	}
}

func TestVectorMalformedInput(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.Malformed {
		l, _, received := newTestLink(t, testB, v.keyIf(c.Encrypted))
		r := newReader(l.overlay)
		r.datagram(remoteA, append(testA.AppendBytes(nil), c.Body...))
		r.flush()
		drops := l.Status().Drops
		handled := len(*received) + int(drops["short"])
		if l.machine.heard {
			handled++ // the genuine one is a heartbeat
		}
		require.Equal(t, c.Delivered, handled, c.Name)
		require.Equal(t, c.Outcome != "ok", drops["truncated"]+drops["not_authentic"] == 1, c.Name)
	}
}

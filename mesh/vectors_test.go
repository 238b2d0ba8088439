package mesh

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/internal/gobwire"
	"github.com/overweave/overweave/mesh/peer"
)

// The vectors of testdata/mesh.json were emitted by Weave Net 2.8. Here are those of framing, introduction and messages.

type vector struct {
	ID       string
	Inputs   json.RawMessage
	Expected json.RawMessage
}

// vectors returns the vectors whose id starts with prefix.
func vectors(t testing.TB, prefix string) (found []vector) {
	t.Helper()
	data, err := os.ReadFile("testdata/mesh.json")
	require.NoError(t, err)
	var file struct{ Vectors []vector }
	require.NoError(t, json.Unmarshal(data, &file))
	for _, v := range file.Vectors {
		if strings.HasPrefix(v.ID, prefix) {
			found = append(found, v)
		}
	}
	require.NotEmpty(t, found, prefix)
	return found
}

// load decodes the only vector of that id.
func load(t testing.TB, id string, inputs, expected any) {
	t.Helper()
	v := vectors(t, id)[0]
	require.Equal(t, id, v.ID)
	if inputs != nil {
		require.NoError(t, json.Unmarshal(v.Inputs, inputs))
	}
	require.NoError(t, json.Unmarshal(v.Expected, expected))
}

// hexBytes is a byte string in JSON.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func TestVectorPeerNameGob(t *testing.T) {
	var want struct {
		Results []struct {
			Gob  hexBytes `json:"gob_hex"`
			Name string
		}
	}
	load(t, "peername-mac-gob", nil, &want)
	for _, w := range want.Results {
		r := gobwire.NewReader(w.Gob)
		v := r.UintItem()
		require.False(t, r.Bad())
		require.Equal(t, []byte(w.Gob), gobwire.AppendUintItem(nil, v))
		if n, err := peer.Parse(w.Name); err == nil {
			require.Equal(t, uint64(n), v)
		} else {
			require.Zero(t, v)
		}
	}
}

func TestVectorFrames(t *testing.T) {
	for _, v := range append(vectors(t, "encrypted-frames-"), vectors(t, "plain-frames-v2")...) {
		var in struct {
			Initiator bool     `json:"sender_is_tcp_initiator"`
			Key       hexBytes `json:"session_key_hex"`
		}
		var want struct {
			Frames []struct {
				Frame hexBytes `json:"frame_hex"`
				Plain hexBytes `json:"plaintext_hex"`
				Clear hexBytes `json:"message_hex"`
			}
		}
		require.NoError(t, json.Unmarshal(v.Inputs, &in))
		require.NoError(t, json.Unmarshal(v.Expected, &want))
		out := &frameWriter{version: 2}
		var stream []byte
		for _, f := range want.Frames {
			stream = append(stream, f.Frame...)
		}
		r := newFrameReader(bytes.NewReader(stream))
		r.version = 2
		if in.Key != nil {
			out.sealer = crypto.NewStreamSealer(crypto.Key(in.Key), in.Initiator)
			r.opener = crypto.NewStreamOpener(crypto.Key(in.Key), in.Initiator)
		}
		for _, f := range want.Frames {
			msg := append(slices.Clone(f.Plain), f.Clear...)
			got, err := out.append(nil, msg)
			require.NoError(t, err)
			require.Equal(t, []byte(f.Frame), got)
			back, err := r.next()
			require.NoError(t, err)
			require.True(t, bytes.Equal(msg, back))
		}
	}
}

func TestVectorFramesVersion1(t *testing.T) {
	var want struct {
		Pieces []struct {
			Message hexBytes `json:"message_hex"`
			Stream  hexBytes `json:"stream_hex"`
		} `json:"stream_pieces"`
	}
	load(t, "plain-frames-v1", nil, &want)
	for _, p := range want.Pieces {
		got, err := (&frameWriter{version: 1}).append(nil, p.Message)
		require.NoError(t, err)
		require.Equal(t, []byte(p.Stream), got)
		r := newFrameReader(bytes.NewReader(p.Stream))
		r.version = 1
		back, err := r.next()
		require.NoError(t, err)
		require.True(t, bytes.Equal(p.Message, back))
	}
}

func TestVectorFrameSize(t *testing.T) {
	var want struct {
		MaxSealed int `json:"max_plaintext_when_encrypted"`
		Results   []struct {
			Length  int
			Receive bool `json:"receive_length_ok"`
			Send    bool `json:"send_ok"`
		}
	}
	load(t, "frame-size-limit-v2", nil, &want)
	for _, w := range want.Results {
		frame, err := (&frameWriter{version: 2}).append(nil, make([]byte, w.Length))
		require.Equal(t, w.Send, err == nil)
		if err != nil {
			frame = []byte{0, byte(w.Length >> 16), byte(w.Length >> 8), byte(w.Length)}
		}
		r := newFrameReader(bytes.NewReader(frame))
		r.version, r.limit = 2, maxFrame
		_, err = r.next()
		require.Equal(t, w.Receive, err == nil)
	}
	out := &frameWriter{version: 2, sealer: crypto.NewStreamSealer(crypto.Key{}, true)}
	_, err := out.append(nil, make([]byte, want.MaxSealed))
	require.NoError(t, err)
	_, err = out.append(nil, make([]byte, want.MaxSealed+1))
	require.ErrorIs(t, err, errTooLong)
}

type side struct {
	Features map[string]string
	Min, Max int
}

// introduce returns an introduction with the features of a vector.
func (s side) introduce(t testing.TB, private hexBytes, password string, outbound bool) *introduction {
	f, err := parseFeatures(s.Features, 2)
	require.NoError(t, err)
	i := &introduction{self: f, minimum: s.Min, maximum: s.Max, password: []byte(password), outbound: outbound}
	if private != nil {
		pair, err := crypto.NewKeyPair(private)
		require.NoError(t, err)
		i.keys = &pair
	}
	return i
}

// recorder is a connection on which a recorded stream arrives; it keeps what is written.
type recorder struct {
	io.Reader
	written bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error)      { return r.written.Write(b) }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

func TestVectorIntroductions(t *testing.T) {
	for _, v := range vectors(t, "intro-") {
		t.Run(v.ID, func(t *testing.T) {
			var in struct {
				Acceptor, Initiator side
				AcceptorPrivate     hexBytes `json:"acceptor_private_hex"`
				InitiatorPrivate    hexBytes `json:"initiator_private_hex"`
				Password            string   `json:"password_utf8"`
			}
			require.NoError(t, json.Unmarshal(v.Inputs, &in))
			testIntroduction(t, v, in.Initiator.introduce(t, in.InitiatorPrivate, in.Password, true), "initiator", "acceptor")
			testIntroduction(t, v, in.Acceptor.introduce(t, in.AcceptorPrivate, in.Password, false), "acceptor", "initiator")
		})
	}
}

// testIntroduction runs one end against what the other has sent, and compares what it sends.
func testIntroduction(t *testing.T, v vector, i *introduction, us, them string) {
	var want map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(v.Expected, &want))
	get := func(key string) (b hexBytes) {
		if want[key] != nil {
			require.NoError(t, json.Unmarshal(want[key], &b))
		}
		return b
	}
	theirs := append(get(them+"_sends_hex"), get("then_"+them+"_heartbeat_hex")...)
	c := &recorder{Reader: bytes.NewReader(theirs)}
	s, err := i.run(c, c)
	require.NoError(t, err)
	var seen map[string]string
	require.NoError(t, json.Unmarshal(want["features_seen_by_"+us], &seen))
	require.Equal(t, seen, s.remote.raw)
	if key := get("session_key_hex"); len(key) > 0 {
		require.Equal(t, crypto.Key(key), *s.key)
	}
	msg, err := s.in.next()
	require.NoError(t, err)
	require.Equal(t, []byte{tagHeartbeat}, msg)

	// Maps have no order, so ours is compared by what the other end would read, and by its length.
	ours := get(us + "_sends_hex")
	got := c.written.Bytes()
	if v.ID != "intro-v1-plain" && v.ID != "intro-v1-encrypted" {
		require.Len(t, got, len(ours))
		require.Equal(t, []byte(ours[:len(protocolName)+3]), got[:len(protocolName)+3])
	}
	beat, err := s.out.append(nil, []byte{tagHeartbeat})
	require.NoError(t, err)
	require.Equal(t, []byte(get("then_"+us+"_heartbeat_hex")), beat)
}

func TestVectorVersionChoice(t *testing.T) {
	var want struct {
		Results []struct {
			OK       bool
			OurMin   int  `json:"our_min"`
			OurMax   int  `json:"our_max"`
			TheirMin byte `json:"their_min"`
			TheirMax byte `json:"their_max"`
			Version  int
		}
	}
	load(t, "version-choice", nil, &want)
	for _, w := range want.Results {
		s := &session{in: newFrameReader(bytes.NewReader([]byte{'w', 'e', 'a', 'v', 'e', w.TheirMin, w.TheirMax})), out: &frameWriter{}}
		err := (&introduction{minimum: w.OurMin, maximum: w.OurMax}).header(&recorder{}, s)
		require.Equal(t, w.OK, err == nil, "%+v", w)
		if w.OK {
			require.Equal(t, w.Version, s.version)
		}
	}
}

func TestVectorHeader(t *testing.T) {
	var want struct {
		Results []struct {
			OK       bool
			Received hexBytes `json:"received_then_eof_hex"`
			Version  int
		}
		Send hexBytes `json:"we_send_hex"`
	}
	load(t, "header-parse", nil, &want)
	for _, w := range want.Results {
		c := &recorder{}
		s := &session{in: newFrameReader(bytes.NewReader(w.Received)), out: &frameWriter{}}
		err := (&introduction{minimum: 1}).header(c, s)
		require.Equal(t, w.OK, err == nil, "%x", w.Received)
		require.Equal(t, w.Version, s.version)
		require.Equal(t, []byte(want.Send), c.written.Bytes())
	}
}

func TestVectorPasswordMismatch(t *testing.T) {
	var in struct {
		Password string `json:"password_utf8"`
		Other    string `json:"other_password_utf8"`
	}
	var want struct {
		Results []struct {
			Case        string
			AcceptorOK  bool `json:"acceptor_intro_ok"`
			InitiatorOK bool `json:"initiator_intro_ok"`
			Version     int
		}
	}
	load(t, "password-mismatch-intro", &in, &want)
	passwords := map[string][2]string{ // of initiator and acceptor
		"initiator-only-has-password": {in.Password, ""}, "acceptor-only-has-password": {"", in.Password},
		"different-passwords": {in.Password, in.Other}, "same-password": {in.Password, in.Password}, "none": {"", ""},
	}
	for _, w := range want.Results {
		p, ok := passwords[w.Case]
		require.True(t, ok, w.Case)
		initiator, acceptor := introducePair(t, p, w.Version)
		require.Equal(t, w.InitiatorOK, initiator == nil, "%+v: %v", w, initiator)
		require.Equal(t, w.AcceptorOK, acceptor == nil, "%+v: %v", w, acceptor)
		if !w.InitiatorOK {
			require.ErrorIs(t, initiator, ErrPassword)
			require.ErrorIs(t, acceptor, ErrPassword)
		}
	}
}

// introducePair introduces two ends with each other, and returns what came of it.
func introducePair(t *testing.T, passwords [2]string, version int) (initiator, acceptor error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	run := func(c net.Conn, i int) error {
		intro := introduction{
			self: features{name: name(i + 1), uid: 1, connID: 1}, minimum: 1, maximum: version,
			password: []byte(passwords[i]), outbound: i == 0,
		}
		_, err := intro.run(c, c)
		if err != nil {
			_ = c.Close()
		}
		return err
	}
	done := make(chan error)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = run(c, 1)
			defer c.Close()
		}
		done <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	initiator = run(c, 0)
	return initiator, <-done
}

func TestVectorFeatures(t *testing.T) {
	var in struct {
		ConnID string `json:"our_conn_id"`
	}
	var want struct {
		Results []struct {
			Case, Name, Nickname, UID string
			ConnUID                   string `json:"connection_uid"`
			Features                  map[string]string
			OK                        bool
			HasShortID                bool `json:"has_short_id"`
			ShortID                   int  `json:"short_id"`
			Trusted                   bool `json:"trusted_by_remote"`
		}
	}
	load(t, "features-validation", &in, &want)
	ours, err := strconv.ParseUint(in.ConnID, 10, 64)
	require.NoError(t, err)
	for _, w := range want.Results {
		m, err := decodeFeatures(encodeFeatures(w.Features))
		require.NoError(t, err)
		require.Equal(t, w.Features, m)
		f, err := parseFeatures(m, 2)
		require.Equal(t, w.OK, err == nil, "%s: %v", w.Case, err)
		if !w.OK {
			continue
		}
		require.Equal(t, w.Name, f.name.String(), w.Case)
		require.Equal(t, []any{w.Nickname, w.UID, w.HasShortID, w.ShortID, w.Trusted},
			[]any{f.nickname, f.uid.String(), f.hasShortID, int(f.shortID), f.trusted}, w.Case)
		require.Equal(t, w.ConnUID, strconv.FormatUint(ours^f.connID, 10), w.Case)
	}
}

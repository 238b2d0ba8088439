package crypto

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// The vectors need to set the numbers of sealers, so these tests are inside the package.

func load(t testing.TB, file string, into any) {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, into))
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func number(t testing.TB, s string) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(s, 10, 64)
	require.NoError(t, err)
	return v
}

func keyPair(t testing.TB, private string) KeyPair {
	t.Helper()
	k, err := NewKeyPair(unhex(t, private))
	require.NoError(t, err)
	return k
}

func TestVectorSessionKeys(t *testing.T) {
	var vectors map[string]struct {
		Inputs struct {
			A        string `json:"initiator_private_hex"`
			B        string `json:"acceptor_private_hex"`
			Password string `json:"password_utf8"`
		}
		Expected struct {
			A       string `json:"initiator_public_hex"`
			B       string `json:"acceptor_public_hex"`
			Session string `json:"session_key_hex"`
		}
	}
	load(t, "mesh.json", &vectors)
	for _, id := range []string{"session-key-1", "session-key-empty-password", "session-key-long-password"} {
		v := vectors[id]
		require.NotEmpty(t, v.Expected.Session, id)
		requireSession(t, [2]string{v.Inputs.A, v.Inputs.B}, [2]string{v.Expected.A, v.Expected.B}, v.Inputs.Password, v.Expected.Session)
	}

	var sleeve struct {
		Session struct {
			Password string `json:"password_utf8"`
			PrivateA string `json:"private_A"`
			PrivateB string `json:"private_B"`
			PublicA  string `json:"public_A"`
			PublicB  string `json:"public_B"`
			Key      string `json:"session_key"`
		} `json:"session_key"`
	}
	load(t, "sleeve.json", &sleeve)
	s := sleeve.Session
	requireSession(t, [2]string{s.PrivateA, s.PrivateB}, [2]string{s.PublicA, s.PublicB}, s.Password, s.Key)
}

// requireSession checks that both ends compute the key.
func requireSession(t *testing.T, private, public [2]string, password, key string) {
	t.Helper()
	for i := range private {
		own := keyPair(t, private[i]).Public()
		require.Equal(t, public[i], hex.EncodeToString(own[:]))
		k, err := keyPair(t, private[i]).Session(unhex(t, public[1-i]), []byte(password))
		require.NoError(t, err)
		require.Equal(t, key, hex.EncodeToString(k[:]))
	}
}

// TestVectorZeroPublicKey: the reference goes on with such a key, section 11.4 advises to refuse it.
func TestVectorZeroPublicKey(t *testing.T) {
	var vectors map[string]struct {
		Inputs struct {
			Public   string `json:"remote_public_hex"`
			Password string `json:"password_utf8"`
		}
	}
	load(t, "mesh.json", &vectors)
	v := vectors["session-key-zero-public"].Inputs
	own, err := GenerateKeyPair()
	require.NoError(t, err)
	_, err = own.Session(unhex(t, v.Public), []byte(v.Password))
	require.ErrorIs(t, err, ErrBadPublicKey)
}

func TestVectorStream(t *testing.T) {
	type frame struct {
		Frame  string      `json:"frame_hex"`
		Sealed string      `json:"sealed_hex"`
		Nonce  string      `json:"nonce_hex"`
		Plain  string      `json:"plaintext_hex"`
		Seq    json.Number `json:"seq"`
	}
	var vectors map[string]struct {
		Inputs struct {
			Initiator bool   `json:"sender_is_tcp_initiator"`
			Key       string `json:"session_key_hex"`
		}
		Expected struct{ Frames, Far []frame }
	}
	load(t, "mesh.json", &vectors)
	for _, id := range []string{"encrypted-frames-initiator-to-acceptor", "encrypted-frames-acceptor-to-initiator"} {
		v := vectors[id]
		require.Len(t, v.Expected.Frames, 4)
		key := Key(unhex(t, v.Inputs.Key))
		sealer, opener := NewStreamSealer(key, v.Inputs.Initiator), NewStreamOpener(key, v.Inputs.Initiator)
		for _, f := range append(v.Expected.Frames, v.Expected.Far...) {
			sealed := unhex(t, f.Sealed)
			if f.Frame != "" {
				sealed = unhex(t, f.Frame)[4:] // after the length
			} else {
				sealer.next, opener.next = number(t, f.Seq.String()), number(t, f.Seq.String())
			}
			require.Equal(t, sealed, sealer.Seal(nil, unhex(t, f.Plain)), f.Seq)
			require.Equal(t, f.Nonce, hex.EncodeToString(sealer.nonce[:]))
			plain, err := opener.Open(nil, sealed)
			require.NoError(t, err)
			require.Equal(t, f.Plain, hex.EncodeToString(plain))
		}
	}
}

func TestVectorControlMessages(t *testing.T) {
	var vectors struct {
		Control struct {
			Key       string `json:"session_key"`
			Initiator bool   `json:"sender_is_initiator"`
			Messages  []struct {
				Message string
				Bytes   string `json:"tcp_bytes"`
			}
		} `json:"encrypted_control"`
	}
	load(t, "sleeve.json", &vectors)
	v := vectors.Control
	require.NotEmpty(t, v.Messages)
	sealer := NewStreamSealer(Key(unhex(t, v.Key)), v.Initiator)
	for _, m := range v.Messages {
		require.Equal(t, m.Bytes[8:], hex.EncodeToString(sealer.Seal(nil, unhex(t, m.Message))))
	}
}

func TestVectorNonces(t *testing.T) {
	type entry struct {
		DF        bool
		Nonce     string
		Initiator bool `json:"sender_is_initiator"`
		Sequence  string
		Wire      string `json:"wire_sequence_field"`
	}
	var v struct {
		Nonces []entry
		TCP    []entry `json:"nonces_tcp_for_comparison"`
	}
	load(t, "sleeve.json", &v)
	require.NotEmpty(t, v.Nonces)
	require.NotEmpty(t, v.TCP)
	for _, e := range v.TCP {
		n := newNonce(e.Initiator, true)
		n.setNumber(number(t, e.Sequence))
		require.Equal(t, e.Nonce, hex.EncodeToString(n[:]))
	}
	for _, e := range v.Nonces {
		s := NewDatagramSealer(Key{}, e.Initiator)
		s.next[channel(e.DF)].Store(number(t, e.Sequence))
		wire := s.Seal(nil, channel(e.DF), nil)[:8]
		require.Equal(t, e.Wire, hex.EncodeToString(wire))
		require.Equal(t, e.Nonce[32:], hex.EncodeToString(wire), "the number is the end of the nonce")
		require.Equal(t, e.Nonce[:32], hex.EncodeToString(s.nonce[:16]))
	}
}

func channel(df bool) Channel {
	if df {
		return DontFragment
	}
	return Fragmentable
}

const senderName = 6 // bytes in front of what is sealed

func TestVectorDatagrams(t *testing.T) {
	var v struct {
		Session struct {
			Key string `json:"session_key"`
		} `json:"session_key"`
		Encrypted struct {
			Datagrams []struct {
				DF        bool
				Initiator bool `json:"sender_is_initiator"`
				Sequence  uint64
				Plaintext string
				Payload   string `json:"udp_payload"`
			}
		} `json:"encrypted_datagrams"`
		Heartbeat struct {
			Plain string `json:"plain_A_to_B"`
			AtoB  string `json:"encrypted_A_to_B_seq0_df"`
			BtoA  string `json:"encrypted_B_to_A_seq0_df"`
			UID   string `json:"connection_uid"`
		}
	}
	load(t, "sleeve.json", &v)
	key := Key(unhex(t, v.Session.Key))
	require.NotEmpty(t, v.Encrypted.Datagrams)
	openers := map[bool]*DatagramOpener{true: NewDatagramOpener(key, true), false: NewDatagramOpener(key, false)}
	for _, d := range v.Encrypted.Datagrams {
		sealer := NewDatagramSealer(key, d.Initiator)
		sealer.next[channel(d.DF)].Store(d.Sequence)
		sealed := unhex(t, d.Payload)[senderName:]
		require.Equal(t, sealed, sealer.Seal(nil, channel(d.DF), unhex(t, d.Plaintext)))
		plain, ch, err := openers[d.Initiator].Open(nil, sealed)
		require.NoError(t, err)
		require.Equal(t, channel(d.DF), ch)
		require.Equal(t, d.Plaintext, hex.EncodeToString(plain))
		_, _, err = openers[d.Initiator].Open(nil, sealed)
		require.ErrorIs(t, err, ErrReplay)
		_, _, err = openers[!d.Initiator].Open(nil, sealed)
		require.ErrorIs(t, err, ErrOpen, "the wrong direction")
	}

	record := unhex(t, v.Heartbeat.Plain)[senderName:]
	require.Equal(t, v.Heartbeat.AtoB[12:], hex.EncodeToString(NewDatagramSealer(key, true).Seal(nil, DontFragment, record)))
	plain, _, err := NewDatagramOpener(key, false).Open(nil, unhex(t, v.Heartbeat.BtoA)[senderName:])
	require.NoError(t, err)
	require.Equal(t, v.Heartbeat.UID, hex.EncodeToString(plain[len(plain)-8:]))
}

// TestVectorReplayWindow runs the recorded arrivals through sealing and opening.
func TestVectorReplayWindow(t *testing.T) {
	var v struct {
		Replay struct {
			Arrivals []struct {
				Accepted bool
				Sequence string
			} `json:"sequence_of_arrivals"`
			DF bool `json:"afterwards_df_sequence_0_accepted"`
		} `json:"replay_window"`
	}
	load(t, "sleeve.json", &v)
	require.NotEmpty(t, v.Replay.Arrivals)
	sealer, opener := NewDatagramSealer(Key{1}, true), NewDatagramOpener(Key{1}, true)
	for i, a := range v.Replay.Arrivals {
		sealer.next[Fragmentable].Store(number(t, a.Sequence))
		_, _, err := opener.Open(nil, sealer.Seal(nil, Fragmentable, []byte("x")))
		if a.Accepted {
			require.NoError(t, err, "arrival %d, number %s", i, a.Sequence)
		} else {
			require.ErrorIs(t, err, ErrReplay, "arrival %d, number %s", i, a.Sequence)
		}
	}
	_, _, err := opener.Open(nil, sealer.Seal(nil, DontFragment, []byte("x")))
	require.Equal(t, v.Replay.DF, err == nil)
}

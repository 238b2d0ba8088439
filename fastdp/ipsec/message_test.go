package ipsec

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

type hexBytes []byte

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

type vectors struct {
	KeyDerivation struct {
		Cases []struct {
			OKM      hexBytes  `json:"okm_36"`
			Nonce    hexBytes  `json:"nonce_hkdf_salt"`
			Session  hexBytes  `json:"session_key"`
			Receiver peer.Name `json:"receiver_peer_name"`
		}
	} `json:"key_derivation"`
	InitSARemote struct {
		Cases []struct {
			Nonce, Payload hexBytes
			SPI            uint32
		}
		Lengths []struct {
			Length   int `json:"payload_length"`
			Accepted bool
		}
	} `json:"init_sa_remote"`
	Captures struct {
		Cases []struct {
			ESP   hexBytes
			Key   hexBytes `json:"key_and_salt"`
			Inner hexBytes `json:"inner_udp_vxlan_frame"`
		}
	} `json:"esp_captures"`
	XFRM struct {
		Messages []xfrmMessage
		Own      []xfrmMessage `json:"own_messages"`
	} `json:"xfrm_netlink"`
}

type xfrmMessage struct {
	Name    string
	Message hexBytes
}

func readVectors(t testing.TB) (v vectors) {
	text, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &v))
	return v
}

func TestVectorsKeyDerivation(t *testing.T) {
	cases := readVectors(t).KeyDerivation.Cases
	require.NotEmpty(t, cases)
	for _, c := range cases {
		session := [32]byte(c.Session)
		key, err := deriveKey(&session, [nonceSize]byte(c.Nonce), c.Receiver)
		require.NoError(t, err)
		require.Equal(t, []byte(c.OKM), key[:])
	}
}

func TestVectorsAnnouncement(t *testing.T) {
	v := readVectors(t).InitSARemote
	require.NotEmpty(t, v.Cases)
	for _, c := range v.Cases {
		a, err := parseAnnouncement(c.Payload)
		require.NoError(t, err)
		require.Equal(t, announcement{nonce: [nonceSize]byte(c.Nonce), spi: c.SPI}, a)
		require.Equal(t, []byte(c.Payload), a.append(nil))
	}
	require.NotEmpty(t, v.Lengths)
	for _, l := range v.Lengths {
		_, err := parseAnnouncement(make([]byte, l.Length))
		require.Equal(t, l.Accepted, err == nil, l.Length)
	}
}

// openESP opens a packet as section 2.3 says, and returns what was in it without the trailer.
func openESP(key Key, esp []byte) ([]byte, error) {
	block, err := aes.NewCipher(key[:32])
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	aad := append(append([]byte(nil), esp[:4]...), 0, 0, 0, 0) // the upper half of the number is not sent
	plain, err := gcm.Open(nil, append(append([]byte(nil), key[32:]...), esp[8:16]...), esp[16:], append(aad, esp[4:8]...))
	if err != nil {
		return nil, err
	}
	pad := int(plain[len(plain)-2])
	return plain[:len(plain)-2-pad], nil
}

func TestVectorsCaptures(t *testing.T) {
	opened := 0
	for _, c := range readVectors(t).Captures.Cases {
		if len(c.ESP) == 0 {
			continue // recorded in part
		}
		inner, err := openESP(Key(c.Key), c.ESP)
		require.NoError(t, err)
		require.Equal(t, []byte(c.Inner), inner)
		opened++
	}
	require.NotZero(t, opened)
}

func TestAnnouncementReservedSPI(t *testing.T) {
	_, err := parseAnnouncement(announcement{spi: minSPI - 1}.append(nil))
	require.ErrorIs(t, err, errMessage)
}

func TestKeyIsHidden(t *testing.T) {
	k := Association{Key: Key{1: 0xab}}
	text, err := json.Marshal(k)
	require.NoError(t, err)
	for _, s := range []string{fmt.Sprint(k.Key), fmt.Sprintf("%x %v %+v", k, k, k), string(text)} {
		require.NotContains(t, s, "ab0")
		require.NotContains(t, s, "171")
		require.Contains(t, s, "hidden")
	}
}

func FuzzAnnouncement(f *testing.F) {
	for _, c := range readVectors(f).InitSARemote.Cases {
		f.Add([]byte(c.Payload))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAnnouncement(b); err == nil {
			require.Equal(t, b[:flagsAt+1], a.append(nil)[:flagsAt+1])
		}
	})
}

func FuzzEvent(f *testing.F) {
	v := readVectors(f).XFRM
	for _, m := range append(v.Messages, v.Own...) {
		f.Add(uint16(m.Message[4])|uint16(m.Message[5])<<8, []byte(m.Message[16:]))
	}
	f.Fuzz(func(t *testing.T, kind uint16, b []byte) {
		if e, ok := parseEvent(kind, b); !ok {
			require.Zero(t, e)
		}
	})
}

// The events of the messages that the vectors have: those for policies of 2.8 name no port, so that they are not ours.
func TestVectorsEvents(t *testing.T) {
	v := readVectors(t).XFRM
	got := map[string]Event{}
	for _, m := range append(v.Messages, v.Own...) {
		if e, ok := parseEvent(uint16(m.Message[4])|uint16(m.Message[5])<<8, m.Message[16:]); ok {
			got[m.Name] = e
		}
	}
	require.Equal(t, map[string]Event{
		"delsa_in":                 {SPI: 0x4aa176ee},
		"own_newpolicy_in_require": {Port: 6784}, "own_newpolicy_out_port": {Port: 6784},
		"own_newpolicy_in_block": {Port: 6784}, "own_newpolicy_out_block": {Port: 6784},
	}, got)
}

package mesh

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/peer"
)

func TestVectorGossipMessages(t *testing.T) {
	for _, v := range vectors(t, "gossip-message-") {
		if v.ID == "gossip-message-topology" {
			continue
		}
		var in struct {
			Channel             string
			Payload             hexBytes `json:"payload_hex"`
			Source, Destination peer.Name
			Tag                 byte
		}
		var want struct {
			Message hexBytes `json:"message_hex"`
			Plain   hexBytes `json:"v2_plain_frame_hex"`
			Sealed  hexBytes `json:"v2_encrypted_frame_hex"`
			Key     hexBytes `json:"session_key_hex"`
		}
		require.NoError(t, json.Unmarshal(v.Inputs, &in))
		require.NoError(t, json.Unmarshal(v.Expected, &want))
		msg := encodeMessage(in.Tag, in.Channel, in.Source, in.Destination, in.Payload)
		require.Equal(t, []byte(want.Message), msg)
		m, err := parseMessage(msg[0], msg[1:])
		require.NoError(t, err)
		require.Equal(t, in.Channel, string(m.channel))
		require.Equal(t, []byte(in.Payload), m.payload)
		require.Equal(t, in.Source, m.src)
		for _, key := range []hexBytes{nil, want.Key} {
			out, frame := &frameWriter{version: 2}, want.Plain
			if key != nil {
				out.sealer, frame = crypto.NewStreamSealer(crypto.Key(key), true), want.Sealed
				_ = out.sealer.Seal(nil, nil) // the features were number 0
			}
			got, err := out.append(nil, msg)
			require.NoError(t, err)
			if key == nil || bytes.Equal(frame, got) {
				require.Equal(t, []byte(frame), got)
				continue
			}
			out.sealer = crypto.NewStreamSealer(crypto.Key(key), true)
			got, err = out.append(nil, msg)
			require.NoError(t, err)
			require.Equal(t, []byte(frame), got)
		}
	}
}

// TestVectorCaptures reads both directions of recorded connections, message by message.
func TestVectorCaptures(t *testing.T) {
	for _, v := range vectors(t, "capture-") {
		var in map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(v.Inputs, &in))
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(v.Expected, &want))
		for _, us := range []string{"initiator", "acceptor"} {
			them := map[string]string{"initiator": "acceptor", "acceptor": "initiator"}[us]
			var stream, private hexBytes
			var password string
			require.NoError(t, json.Unmarshal(in[them+"_stream_hex"], &stream))
			if in["password_utf8"] != nil {
				require.NoError(t, json.Unmarshal(in["password_utf8"], &password))
				require.NoError(t, json.Unmarshal(in[us+"_private_hex"], &private))
			}
			i := &introduction{self: features{name: 1, uid: 1}, minimum: 1, password: []byte(password), outbound: us == "initiator"}
			if private != nil {
				pair, err := crypto.NewKeyPair(private)
				require.NoError(t, err)
				i.keys = &pair
			}
			c := &recorder{Reader: bytes.NewReader(stream)}
			s, err := i.run(c, c)
			require.NoError(t, err, v.ID)
			checkCapture(t, s, want[them+"_messages"])
		}
	}
}

func checkCapture(t *testing.T, s *session, list json.RawMessage) {
	var messages []struct {
		Features map[string]string
		Tag      byte
		Message  hexBytes `json:"message_hex"`
		Channel  string
		Peers    []string `json:"topology_peers"`
	}
	require.NoError(t, json.Unmarshal(list, &messages))
	require.Equal(t, messages[0].Features, s.remote.raw)
	for _, w := range messages[1:] {
		msg, err := s.in.next()
		require.NoError(t, err)
		require.Equal(t, w.Tag, msg[0])
		if w.Tag == tagHeartbeat {
			continue
		}
		require.Equal(t, []byte(w.Message), msg)
		m, err := parseMessage(msg[0], msg[1:])
		require.NoError(t, err)
		require.Equal(t, w.Channel, string(m.channel))
		if w.Channel == topologyChannel {
			entries, _, err := decodeUpdate(m.payload, nothingKnown)
			require.NoError(t, err)
			var names []string
			for _, e := range entries {
				names = append(names, hex.EncodeToString(e.name.AppendBytes(nil)))
			}
			require.ElementsMatch(t, w.Peers, names)
		}
	}
	_, err := s.in.next()
	require.ErrorIs(t, err, io.EOF)
}

func nothingKnown(peer.Name) *entry { return nil }

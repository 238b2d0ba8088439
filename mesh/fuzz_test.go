package mesh

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

func FuzzDecodeUpdate(f *testing.F) {
	for _, v := range vectors(f, "topology-update-") {
		var in struct {
			Update hexBytes `json:"update_hex"`
		}
		require.NoError(f, json.Unmarshal(v.Inputs, &in))
		f.Add([]byte(in.Update))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, _, err := decodeUpdate(b, nothingKnown)
		if err != nil {
			return
		}
		requireSame(t, entries, encodeUpdate(entries), decodeUpdateAny)
		topo := newTopology(&entry{name: 1, uid: 1}, randomInt)
		topo.merge(entries, 2)
		topo.collect(newGraph(topo, nil))
		requireDigest(t, topo)
	})
}

func FuzzParseEntries(f *testing.F) {
	e := &entry{name: 7, uid: 8, version: 9, nickname: "n", shortID: 3, hasShortID: true, port: 6783,
		conns: connList(appendConn(nil, conn{remote: 5, address: address{raw: "x"}}))}
	f.Add(appendEntry(nil, e))
	f.Add(appendStamp(nil, e))
	f.Add(wantMessage([]peer.Name{1, 2})[2:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if entries, _, err := parseEntries(b, nothingKnown); err == nil {
			requireSame(t, entries, appendEntries(entries), decodeEntries)
		}
		topo := newTopology(&entry{name: 1, uid: 1}, randomInt)
		if stamps, err := parseStamps(b); err == nil {
			topo.compare(stamps)
		}
		_, _ = parseNames(b)
		_, _ = topo.sameDigest(b)
	})
}

func FuzzMessages(f *testing.F) {
	for _, v := range vectors(f, "gossip-malformed") {
		var want struct {
			Results []struct {
				Message hexBytes `json:"message_hex"`
			}
		}
		require.NoError(f, json.Unmarshal(v.Expected, &want))
		for _, w := range want.Results {
			f.Add([]byte(w.Message))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || b[0] < tagGossip || b[0] > tagBroadcast {
			return
		}
		m, err := parseMessage(b[0], b[1:])
		if err != nil {
			return
		}
		again, err := parseMessage(m.tag, encodeMessage(m.tag, string(m.channel), m.src, m.dst, m.payload)[1:])
		require.NoError(t, err)
		require.Equal(t, hex.EncodeToString(m.payload), hex.EncodeToString(again.payload))
		require.Equal(t, []any{string(m.channel), m.src, m.dst}, []any{string(again.channel), again.src, again.dst})
	})
}

// FuzzFrames reads a stream of frames. What it holds comes out as it would go in again.
func FuzzFrames(f *testing.F) {
	for _, v := range vectors(f, "plain-frames-v") {
		var want struct {
			Frames []struct {
				Frame hexBytes `json:"frame_hex"`
			}
			Pieces []struct {
				Stream hexBytes `json:"stream_hex"`
			} `json:"stream_pieces"` // of version 1
		}
		require.NoError(f, json.Unmarshal(v.Expected, &want))
		var stream []byte
		for _, w := range want.Frames {
			stream = append(stream, w.Frame...)
		}
		for _, w := range want.Pieces {
			stream = append(stream, w.Stream...)
		}
		require.NotEmpty(f, stream)
		f.Add(stream, v.ID == "plain-frames-v1")
	}
	f.Fuzz(func(t *testing.T, stream []byte, gob bool) {
		version := map[bool]int{true: 1, false: 2}[gob]
		r := newFrameReader(bytes.NewReader(stream))
		r.version = version
		out := &frameWriter{version: version}
		var again []byte
		var messages [][]byte
		for {
			msg, err := r.next()
			if err != nil {
				break
			}
			messages = append(messages, msg)
			if again, err = out.append(again, msg); err != nil {
				t.Fatal(err)
			}
		}
		r = newFrameReader(bytes.NewReader(again))
		r.version = version
		for _, msg := range messages {
			got, err := r.next()
			require.NoError(t, err)
			require.True(t, bytes.Equal(msg, got))
		}
	})
}

// FuzzIntroduction lets anything introduce itself.
func FuzzIntroduction(f *testing.F) {
	for _, v := range vectors(f, "refusals") {
		var want struct {
			Results []struct {
				Sends hexBytes `json:"client_sends_hex"`
			}
		}
		require.NoError(f, json.Unmarshal(v.Expected, &want))
		for _, w := range want.Results {
			f.Add([]byte(w.Sends), false)
			f.Add([]byte(w.Sends), true)
		}
	}
	for _, v := range vectors(f, "intro-v1") {
		var want struct {
			Sends hexBytes `json:"initiator_sends_hex"`
		}
		require.NoError(f, json.Unmarshal(v.Expected, &want))
		f.Add([]byte(want.Sends), strings.Contains(v.ID, "encrypted"))
	}
	f.Fuzz(func(t *testing.T, stream []byte, password bool) {
		i := introduction{self: features{name: 1, uid: 1}, minimum: 1}
		if password {
			i.password = []byte("secret")
		}
		c := &recorder{Reader: strings.NewReader(string(stream))}
		s, err := i.run(c, c)
		if err != nil {
			return
		}
		require.True(t, s.remote.name.IsValid())
		for err == nil {
			_, err = s.in.next()
		}
	})
}

package fastdp

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// vectors2 are the vectors of fastdp2.md.
type vectors2 struct {
	Frames []struct {
		Name   string
		UID    string `json:"conn_uid"`
		Length int
		Kind   byte
		Number uint32
		Sent   int64 `json:"sent_ns"`
		Size   uint16
		Head   string `json:"first_40"`
	}
	Ignored  []struct{ Name, Frame string }
	SelfTest struct {
		UID        string `json:"conn_uid"`
		MTU        int
		Number     uint32
		Sent       int64 `json:"sent_ns"`
		Segment    int
		Unfinished string
		Segments   []struct {
			Head  string `json:"first_96"`
			Right string `json:"verdict_right"`
			Wrong string `json:"verdict_wrong"`
		}
	} `json:"self_test"`
}

func readVectors2(t testing.TB) (v vectors2) {
	t.Helper()
	b, err := os.ReadFile("testdata/fastdp2.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &v))
	require.NotEmpty(t, v.Frames)
	require.NotEmpty(t, v.Ignored)
	require.Len(t, v.SelfTest.Segments, testParts)
	return v
}

func TestFastdp2Vectors(t *testing.T) {
	v := readVectors2(t)
	for _, c := range v.Frames {
		uid, err := strconv.ParseUint(c.UID, 16, 64)
		require.NoError(t, err)
		p := probe{uid: uid, kind: c.Kind, number: c.Number, sent: time.Duration(c.Sent), size: c.Size}
		frame := p.appendTo(nil, c.Length)
		require.Len(t, frame, c.Length, c.Name)
		require.Equal(t, c.Head, hex.EncodeToString(frame[:40]), c.Name)
		require.Equal(t, make([]byte, c.Length-40), frame[40:], c.Name)
		got, ok := parseProbe(frame)
		require.True(t, ok, c.Name)
		require.Equal(t, p, got, c.Name)
	}
	for _, c := range v.Ignored {
		_, ok := parseProbe(unhex(t, c.Frame))
		require.False(t, ok, c.Name)
	}
}

// TestFastdp2Answers: the first probe of a life and the answer to it are those of the vectors.
func TestFastdp2Answers(t *testing.T) {
	v := readVectors2(t)
	uid, err := strconv.ParseUint(v.Frames[0].UID, 16, 64)
	require.NoError(t, err)
	a, b := newProbeLife(uid, 1376), newProbeLife(uid, 1376)
	a.ready(epoch)
	first := a.take(nil)
	require.Len(t, first, 1)
	require.Equal(t, v.Frames[0].Head, hex.EncodeToString(first[0].frame[:40]))
	b.ready(epoch)
	b.take(nil)
	b.frame(epoch, first[0].frame)
	answer := b.take(nil)
	require.Len(t, answer, 1)
	require.Equal(t, v.Frames[1].Head, hex.EncodeToString(answer[0].frame[:40]))
	require.Len(t, answer[0].frame, v.Frames[1].Length)
	for _, c := range v.Ignored {
		b.frame(epoch, unhex(t, c.Frame))
		require.Empty(t, b.take(nil), c.Name)
	}
}

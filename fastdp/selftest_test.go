package fastdp

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

// finish cuts the frame of a self-test into segments and finishes them, as interfaces do.
func finish(frame []byte, segment int) (out [][]byte) { return cut(frame, segment, true) }

// spoil cuts it too, but leaves the checksums of TCP as they are.
func spoil(frame []byte, segment int) (out [][]byte) { return cut(frame, segment, false) }

func cut(frame []byte, segment int, finish bool) (out [][]byte) {
	for payload := frame[testPayload:]; len(payload) > 0; payload = payload[segment:] {
		f := append(append([]byte(nil), frame[:testPayload]...), payload[:segment]...)
		ip, tcp := f[testIP:testTCP], f[testTCP:]
		binary.BigEndian.PutUint16(ip[2:], uint16(len(f)-testIP))
		binary.BigEndian.PutUint16(ip[4:], uint16(len(out)))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
		binary.BigEndian.PutUint32(tcp[4:], uint32(len(out)*segment))
		if finish {
			binary.BigEndian.PutUint16(tcp[tcpChecksum:], 0)
			binary.BigEndian.PutUint16(tcp[tcpChecksum:], ^fold(pseudoSum(ip, len(tcp))+sum(tcp)))
		}
		out = append(out, f)
	}
	return out
}

func TestSelfTest(t *testing.T) {
	w := newPair(t)
	w.delay = 20 * time.Millisecond
	w.run(time.Second)
	for i := range 2 {
		require.Equal(t, []error{nil}, w.judged[i], "at once")
	}
	w.run(10 * time.Minute)
	require.Len(t, w.judged[0], 11, "and each minute")
	for _, err := range w.judged[0] {
		require.NoError(t, err)
	}
	require.NoError(t, w.lives[0].common().test.result)
}

func TestSelfTestSpoiled(t *testing.T) {
	w := newPair(t)
	w.nic = spoil
	w.run(2 * time.Second)
	require.Equal(t, []error{errSpoiled}, w.judged[0])
	w.nic = finish
	w.run(time.Minute)
	require.Equal(t, []error{errSpoiled, nil}, w.judged[0])
	require.Equal(t, []overlay.EventKind{overlay.Established}, w.kinds(0), "the link itself is in use all the while")
}

func TestSelfTestSwallowed(t *testing.T) {
	w := newPair(t)
	w.nic = func([]byte, int) [][]byte { return nil }
	w.run(3 * time.Second)
	require.Empty(t, w.judged[0])
	w.run(2 * time.Second)
	require.Equal(t, []error{errSwallows}, w.judged[0])

	w = newPair(t)
	w.nic = func(frame []byte, segment int) [][]byte { return finish(frame, segment)[:1] }
	w.run(5 * time.Second)
	require.Equal(t, []error{errSwallows}, w.judged[0], "both segments have to come through")
}

// TestSelfTestBadPath does not blame interfaces for what the path does: neither for losses nor for being cut.
func TestSelfTestBadPath(t *testing.T) {
	for _, loss := range []float64{0.1, 0.3, 0.5} {
		w := newPair(t)
		r := rand.New(rand.NewPCG(1, 2))
		w.lose = func(int, int) bool { return r.Float64() < loss }
		w.run(6 * time.Hour)
		for i := range 2 {
			require.NotEmpty(t, w.judged[i])
			for _, err := range w.judged[i] {
				require.NoError(t, err, loss)
			}
		}
	}
	w := newPair(t)
	w.run(time.Second)
	w.judged = [2][]error{}
	tests := 0
	w.nic = func(frame []byte, segment int) [][]byte {
		tests++
		return finish(frame, segment)
	}
	w.run(testInterval - 2*time.Second)
	w.lose = func(int, int) bool { return true }
	w.run(5 * time.Minute)
	require.Empty(t, w.judged[0])
	require.LessOrEqual(t, tests, 2*testTries, "on hold nothing is tested")
	w.lose = func(int, int) bool { return false }
	w.run(5 * time.Second)
	require.Equal(t, []error{nil}, w.judged[0], "but as soon as it is back")
}

// TestSelfTestCannot: a frame that could not be sent says nothing of the path.
func TestSelfTestCannot(t *testing.T) {
	l := newProbeLife(7, 1376)
	l.ready(epoch)
	l.take(nil)
	l.frame(epoch, probe{uid: 7, kind: kindAnswer, number: 1, size: 1390}.appendTo(nil, probeSmall))
	l.tick(epoch)
	l.test.cannot(epoch, errNoWay)
	require.EqualError(t, l.test.result, "not tested: no way to the peer yet")
	require.ErrorIs(t, l.test.result, errNoWay)
	for _, a := range l.take(nil) {
		require.NotEqual(t, doJudge, a.kind)
	}
	l.tick(epoch.Add(time.Second))
	for _, a := range l.take(nil) {
		require.NotEqual(t, doTest, a.kind, "not before a minute has passed")
	}
	for now := epoch; !l.onHold; now = now.Add(100 * time.Millisecond) {
		l.tick(now)
	}
	l.test.cannot(epoch.Add(5*time.Second), errNoWay) // of a frame that was about to be sent
	require.False(t, l.test.under, "on hold nothing is tested")
}

func TestVerdictsThatNobodyWaitsFor(t *testing.T) {
	l := newProbeLife(7, 1376)
	verdict := func(number uint32, part byte, right bool) {
		l.frame(epoch, probe{uid: 7, kind: kindVerdict, number: number, part: part, right: right}.appendTo(nil, probeSmall))
	}
	l.ready(epoch)
	verdict(0, 1, true)
	l.frame(epoch, probe{uid: 7, kind: kindAnswer, number: 1, size: 1390}.appendTo(nil, probeSmall))
	verdict(0, 1, true)
	verdict(1, 2, true)
	l.tick(epoch)
	require.Equal(t, uint32(1), l.test.number)
	for range 9 {
		verdict(0, 1, true)
		verdict(2, 2, true)
		verdict(1, 0, true)
		verdict(1, 3, false)
		verdict(1, 1, true)
	}
	require.False(t, l.test.done)
	verdict(1, 2, true)
	require.True(t, l.test.done)
	require.NoError(t, l.test.result)
}

func TestTestFrame(t *testing.T) {
	for _, mtu := range []int{minMTU, 1376, 8916, maxMTU} {
		frame, segment := testFrame(probe{uid: 7, kind: kindTest, number: 9, sent: 5}, mtu)
		require.LessOrEqual(t, len(frame), maxFrame+overlay.HeaderLen)
		require.False(t, isIntact(frame), "it is unfinished")
		for i, f := range finish(frame, segment) {
			if mtu < maxFrame/2 {
				require.Len(t, f, mtu+overlay.HeaderLen, "as long as the longest frames")
			}
			p, ok := parseTest(f)
			require.True(t, ok)
			require.Equal(t, probe{uid: 7, kind: kindTest, number: 9, sent: 5, part: byte(i + 1)}, p)
			require.True(t, isIntact(f))
			for _, at := range []int{testIP, testIP + 3, testIP + 9, testIP + 12, testTCP, testTCP + tcpChecksum, len(f) - 1} {
				f[at] ^= 0x10
				require.False(t, isIntact(f), at)
				f[at] ^= 0x10
			}
		}
		for _, f := range spoil(frame, segment) {
			require.False(t, isIntact(f))
		}
	}
}

// TestFastdp2SelfTest compares the segments of a self-test, and the verdict, with the vectors.
func TestFastdp2SelfTest(t *testing.T) {
	v := readVectors2(t).SelfTest
	uid, err := strconv.ParseUint(v.UID, 16, 64)
	require.NoError(t, err)
	frame, segment := testFrame(probe{uid: uid, kind: kindTest, number: v.Number, sent: time.Duration(v.Sent)}, v.MTU)
	require.Equal(t, v.Unfinished, hex.EncodeToString(frame[:testPayload+verdictEnd]))
	require.Equal(t, v.Segment, segment)
	l := newProbeLife(uid, v.MTU)
	l.ready(epoch)
	l.take(nil)
	for i, f := range finish(frame, segment) {
		require.Equal(t, v.Segments[i].Head, hex.EncodeToString(f[:testPayload+verdictEnd]))
		l.frame(epoch, f)
		f[len(f)-1]++
		l.frame(epoch, f)
		answers := l.take(nil)
		require.Len(t, answers, 2)
		require.Equal(t, v.Segments[i].Right, hex.EncodeToString(answers[0].frame))
		require.Equal(t, v.Segments[i].Wrong, hex.EncodeToString(answers[1].frame))
	}
}

func FuzzSelfTest(f *testing.F) {
	frame, segment := testFrame(probe{uid: 7, kind: kindTest, number: 9}, minMTU)
	f.Add(frame)
	for _, part := range finish(frame, segment) {
		f.Add(part)
	}
	f.Add(frame[:testPayload])
	f.Fuzz(func(t *testing.T, b []byte) {
		l := newProbeLife(7, minMTU)
		l.ready(epoch)
		l.take(nil)
		l.frame(epoch, b)
		for _, a := range l.take(nil) {
			p, ok := parseProbe(a.frame)
			require.True(t, ok)
			if p.right {
				require.True(t, isIntact(b))
			}
		}
	})
}

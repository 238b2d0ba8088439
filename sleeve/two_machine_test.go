package sleeve

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

// FuzzMachine2 lives the life of a link of sleeve2 whose remote, system and clock do as they please.
func FuzzMachine2(f *testing.F) {
	const greet, ping, pong, mtu, wait, volume, lost = 0, 1, 2, 3, 4, 5, 6
	up := []byte{greet, wait, 0, 20, pong, 0, 0, 255, 0}
	f.Add(append(up, mtu, 5, 220, wait, 0, 1, pong, 0, 5, 192, 0, wait, 11, 184, wait, 11, 184, wait, 39, 16), true)
	f.Add(append(up, mtu, 35, 40, wait, 3, 232, pong, 0, 0, 9, 1, wait, 3, 232, pong, 0, 0, 9, 1, wait, 3, 232), true)
	f.Add(append([]byte{ping, 0, 9, 1}, append(up, volume, wait, 11, 184, pong, 0, 0, 9, 0, wait, 255, 255)...), false)
	f.Add([]byte{lost, wait, 255, 255, greet, wait, 255, 255, pong, 0, 0, 0, 0}, true)
	f.Fuzz(func(t *testing.T, b []byte, outbound bool) {
		l := life2{machine2: newMachine2(overlay.Params{Outbound: outbound, RemoteAddr: remoteA}, frame2Overhead+16+overlay.HeaderLen)}
		m, now := &l.machine2, time.Unix(1, 0)
		m.confirm(now)
		next := func() int { return takeNumber(&b) }
		for len(b) > 0 {
			op := b[0]
			b = b[1:]
			switch op % 7 {
			case greet:
				m.greet(now)
			case ping:
				m.pinged(now, netip.AddrPortFrom(remoteB.Addr(), uint16(1+len(b)%2)), uint64(len(b)%50), next())
			case pong:
				size := next()
				seq := m.seq - min(m.seq, uint64(next()>>8))
				m.ponged(now, seq, size)
				l.answered = max(l.answered, seq)
			case mtu:
				m.pathMTU(now, next())
			case wait:
				now = now.Add(time.Duration(next()) * time.Millisecond)
				m.tick(now)
			case volume:
				m.sent(now, m.epoch, rekey2Volume)
			case lost:
				m.unsent(now)
			}
			l.requireSound(t, now)
		}
	})
}

// life2 is a machine with what the test knows of it.
type life2 struct {
	machine2
	answered uint64 // the latest ping that was answered
	begun    uint64 // the first ping of the epoch
}

// requireSound checks what holds for a machine at any time, and takes its actions as the link does.
func (l *life2) requireSound(t *testing.T, now time.Time) {
	t.Helper()
	m := &l.machine2
	requireSoundPath(t, &m.path)
	if m.live() && m.next().IsZero() {
		t.Fatal("it is never looked at again")
	}
	actions := m.take(nil)
	if len(actions) > answerBurst+16 {
		t.Fatalf("%d actions at once", len(actions))
	}
	for _, a := range actions {
		switch {
		case a.kind == do2Ping && a.size > MaxDatagram:
			t.Fatalf("a ping of %d bytes", a.size)
		case a.kind == do2Rekey && l.answered < l.begun:
			t.Fatal("an epoch began before the remote knew the last")
		case a.kind == do2Rekey:
			l.begun = m.epochSeq
		}
	}
	if m.tick(now); m.live() && m.next().Before(now) {
		t.Fatal("it is late for ever")
	}
}

func requireSoundPath(t *testing.T, p *path2) {
	t.Helper()
	switch {
	case p.size != 0 && (p.size < path2Floor || p.size > MaxDatagram):
		t.Fatalf("datagrams of %d", p.size)
	case p.searching() && (p.cand < p.good || p.cand >= p.bad):
		t.Fatalf("a search for %d between %d and %d", p.cand, p.good, p.bad)
	case p.size != 0 && p.from == "":
		t.Fatal("a size of nowhere")
	case p.pause < 0 || p.pause > path2Again:
		t.Fatalf("%v until the next try", p.pause)
	}
}

// FuzzPath2 has a path change while it is searched: in the end what is in use passes, and is nearly as much as could.
func FuzzPath2(f *testing.F) {
	f.Add([]byte{5, 220, 5, 120, 9}, uint16(1500), uint16(1400))
	f.Add([]byte{35, 40, 2, 36, 1, 3, 232, 5, 220, 200}, uint16(9000), uint16(600))
	f.Add([]byte{}, uint16(65535), uint16(65000))
	f.Fuzz(func(t *testing.T, b []byte, believed, real uint16) {
		var p path2
		now := time.Unix(1, 0)
		live := func(d time.Duration, believed, real int) {
			for end := now.Add(d); now.Before(end); now = now.Add(ping2Slow) {
				p.believe(now, min(believed, MaxDatagram))
				p.verify()
				for step, until := now, now.Add(ping2Slow); step.Before(until); step = step.Add(10 * time.Millisecond) {
					if size := p.tick(step, true, time.Millisecond); size != 0 && size <= max(real, path2Floor) {
						p.passed(step, size)
					}
					requireSoundPath(t, &p)
				}
			}
		}
		for ; len(b) >= 5 && len(b) < 100; b = b[5:] {
			live(time.Duration(b[4])*time.Second/4, int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:])))
		}
		live(path2Again+time.Minute, int(believed), int(real))
		most := max(min(int(believed), int(real), MaxDatagram), path2Floor)
		if p.size > most || p.size < most-path2Step {
			t.Fatalf("%d is used where %d passes", p.size, most)
		}
	})
}

// TestRekeyByVolume2 sees that an epoch ends with the number of its datagrams, once the remote is known to be in it.
func TestRekeyByVolume2(t *testing.T) {
	m := newMachine2(overlay.Params{Outbound: true, RemoteAddr: remoteA}, 100)
	now := time.Unix(1, 0)
	m.confirm(now)
	m.greet(now)
	rekeyed := func() bool {
		return slices.ContainsFunc(m.take(nil), func(a action2) bool { return a.kind == do2Rekey })
	}
	m.ponged(now, m.seq, pingLen)
	m.sent(now, 0, rekey2Volume-1)
	m.ponged(now, m.seq, pingLen)
	require.False(t, rekeyed())
	m.sent(now, 0, rekey2Volume)
	require.False(t, rekeyed(), "not before an answer")
	m.ponged(now, m.seq, pingLen)
	require.True(t, rekeyed())
	old := m.seq
	m.sent(now, 0, rekey2Volume) // of the epoch before
	require.Equal(t, now, m.epochSince)
	m.sent(now, 1, rekey2Volume)
	m.ponged(now, old, pingLen)
	require.False(t, rekeyed(), "the answer is to a ping of the epoch before")
	now = now.Add(ping2Slow)
	m.tick(now)
	m.sent(now, 1, rekey2Volume)
	m.ponged(now, m.seq, pingLen)
	require.True(t, rekeyed())
}

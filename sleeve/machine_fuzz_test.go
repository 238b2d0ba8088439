package sleeve

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

func FuzzDatagram(f *testing.F) {
	v := loadVectors(f)
	for _, d := range v.Plain {
		f.Add([]byte(d.Payload), false)
	}
	for _, d := range v.Encrypted.Datagrams {
		f.Add([]byte(d.Payload), true)
	}
	for _, c := range v.Malformed {
		f.Add(append(testA.AppendBytes(nil), c.Body...), c.Encrypted)
	}
	plain, _, plainGot := newTestLink(f, testB, nil)
	sealed, _, sealedGot := newTestLink(f, testB, v.key())
	readers := [2]*reader{newReader(plain.overlay), newReader(sealed.overlay)}
	f.Fuzz(func(t *testing.T, b []byte, encrypted bool) {
		r, got := readers[0], plainGot
		if encrypted {
			r, got = readers[1], sealedGot
		}
		r.datagram(remoteA, b)
		r.flush()
		total := 0
		for _, f := range *got {
			total += len(f.Data)
			if len(f.Data) < overlay.HeaderLen || !f.Src.IsValid() || !f.Dst.IsValid() {
				t.Fatal("a frame that should have been dropped")
			}
		}
		if total > len(b) {
			t.Fatal("more out than in")
		}
		*got = nil
		plain.machine.take(nil)
	})
}

// FuzzMachine lives the life of a link whose remote, system and clock do as they please.
func FuzzMachine(f *testing.F) {
	heartbeat, control := []byte{0, 0, 0}, []byte{1, tagEstablished, 0, 0}
	verified := []byte{1, tagMTUVerified, 1414 >> 8, 1414 & 255}
	for _, seed := range [][][]byte{
		{heartbeat, control, {2, 1500 >> 8, 1500 & 255}, verified, {3, 70}, heartbeat},
		{control, control, {2, 0, 0}, {3, 255}, {1, tagFragmentsOK, 0, 0}, {2, 255, 255}, {3, 1}, {3, 250}},
		{heartbeat, control, {2, 9000 >> 8, 9000 & 255}, {3, 2}, {0, 234, 97}, {0, 5, 0}, {3, 255}, {3, 255}},
	} {
		var b []byte
		for _, step := range seed {
			b = append(b, step...)
		}
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, outbound bool) {
		m := newMachine(overlay.Params{ConnUID: 7, Outbound: outbound, RemoteAddr: remoteA}, plainOverhead+recordLen+overlay.HeaderLen)
		now := time.Unix(1, 0)
		m.confirm(now)
		zeros, heartbeat := make([]byte, 1<<16), appendHeartbeat(nil, 7)
		next := func() int { return takeNumber(&b) }
		for len(b) > 0 {
			op := b[0]
			b = b[1:]
			switch op % 4 {
			case 0:
				if n := next(); n > overlay.HeaderLen {
					m.special(now, remoteA, zeros[:n])
				} else {
					m.special(now, remoteA, heartbeat)
				}
			case 1:
				if len(b) > 0 {
					tag := b[0]
					b = b[1:]
					m.control(now, tag, binary.BigEndian.AppendUint16(nil, uint16(next())))
				}
			case 2:
				m.pathMTU(now, next())
			case 3:
				now = now.Add(time.Duration(next()) * time.Millisecond)
				m.tick(now)
			}
			requireSound(t, &m, now)
		}
	})
}

// requireSound checks what holds for a machine at any time, and takes its actions as the link does.
func requireSound(t *testing.T, m *machine, now time.Time) {
	t.Helper()
	switch {
	case m.mtu < minTestMTU-1 || m.mtu > unknownMTU:
		t.Fatalf("an MTU of %d", m.mtu)
	case m.maxPayload > MaxDatagram:
		t.Fatalf("datagrams of %d", m.maxPayload)
	case m.search.running() && (m.search.cand <= m.search.good || m.search.cand >= m.search.bad):
		t.Fatalf("a search for %d between %d and %d", m.search.cand, m.search.good, m.search.bad)
	case m.live() && m.next().IsZero():
		t.Fatal("it is never looked at again")
	case m.mtu != unknownMTU && m.mtuFrom == "":
		t.Fatal("an MTU of nowhere")
	}
	if actions := m.take(nil); len(actions) > answerBurst+16 {
		t.Fatalf("%d actions at once", len(actions))
	}
	if m.tick(now); m.live() && m.next().Before(now) {
		m.tick(now)
		if m.next().Before(now) {
			t.Fatal("it is late for ever")
		}
	}
}

// takeNumber takes two bytes of what a fuzzer gives, or all that is left, and returns them as a number; zero if there are not two.
func takeNumber(b *[]byte) (v int) {
	if len(*b) > 1 {
		v = int(binary.BigEndian.Uint16(*b))
	}
	*b = (*b)[min(2, len(*b)):]
	return v
}

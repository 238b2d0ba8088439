package fastdp

import (
	"encoding/binary"
	"time"
)

// Frames of fastdp2, section 2 of fastdp2.md. They begin as heartbeats of fastdp do.
const (
	probeVersion   = heartbeatMin // offsets in a frame
	probeKind      = probeVersion + 1
	probeNumber    = probeKind + 1
	probeTime      = probeNumber + 4
	probeSize      = probeTime + 8
	probeEnd       = probeSize + 2
	probePart      = probeEnd
	probeRight     = probePart + 1
	verdictEnd     = probeRight + 1
	probeSmall     = 64 // length of answers and verdicts, and of probes that are to pass anywhere
	version1       = 1
	kindProbe      = 1
	kindAnswer     = 2
	kindTest       = 3 // in the segments of a self-test
	kindVerdict    = 4
	maxProbeLength = maxFrame - 1
)

// probe is what a frame says. An answer repeats the number and the time of the probe, a verdict those of the test.
type probe struct {
	uid    uint64
	kind   byte
	number uint32
	sent   time.Duration // by the clock of the probe's sender
	size   uint16        // answer: length of the probe as it arrived
	part   byte          // test, verdict: number of the segment, from 1
	right  bool          // verdict: the segment's checksums were right
}

// appendTo appends a frame of some length, at least probeSmall.
func (p probe) appendTo(b []byte, length int) []byte {
	start := len(b)
	b = appendHeartbeat(b, p.uid, length)
	f := b[start:]
	f[probeVersion], f[probeKind] = version1, p.kind
	binary.BigEndian.PutUint32(f[probeNumber:], p.number)
	binary.BigEndian.PutUint64(f[probeTime:], uint64(p.sent))
	binary.BigEndian.PutUint16(f[probeSize:], p.size)
	if p.kind == kindTest || p.kind == kindVerdict {
		f[probePart], f[probeRight] = p.part, bit(p.right)
	}
	return b
}

// parseProbe reads a frame without addresses; ok is false if it is none of a version and a kind that we know.
func parseProbe(frame []byte) (p probe, ok bool) {
	p, ok = readProbe(frame)
	return p, ok && p.kind != kindTest // which come in TCP segments
}

// readProbe reads a frame of any kind.
func readProbe(frame []byte) (p probe, ok bool) {
	if p.uid, ok = parseHeartbeat(frame); !ok || len(frame) < probeEnd || frame[probeVersion] != version1 {
		return probe{}, false
	}
	p.kind = frame[probeKind]
	p.number = binary.BigEndian.Uint32(frame[probeNumber:])
	p.sent = time.Duration(binary.BigEndian.Uint64(frame[probeTime:]))
	p.size = binary.BigEndian.Uint16(frame[probeSize:])
	switch p.kind {
	case kindProbe, kindAnswer:
		return p, true
	case kindTest, kindVerdict:
		if len(frame) < verdictEnd {
			return probe{}, false
		}
		p.part, p.right = frame[probePart], frame[probeRight] == 1
		return p, true
	}
	return probe{}, false
}

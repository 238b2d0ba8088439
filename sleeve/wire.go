package sleeve

import (
	"encoding/binary"
	"errors"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Sizes in bytes; section 3 of the sleeve specification.
const (
	recordLen      = 2*peer.NameSize + 2
	plainOverhead  = peer.NameSize
	sealedOverhead = peer.NameSize + crypto.DatagramOverhead
	udpOverhead4   = 20 + 8
	udpOverhead6   = 40 + 8

	heartbeatLen = overlay.HeaderLen + 8
	fragTestLen  = 60001
	minTestMTU   = 68 // the smallest MTU of IPv4; tests below it are not answered
)

// The control messages of a link; section 8.
const (
	tagEstablished  = 1 // a heartbeat arrived
	tagFragmentsOK  = 2 // the fragmentation test arrived
	tagMTUVerified  = 3 // an MTU test arrived; the payload is its size as two bytes
	maxRecordsInOne = 100
)

var errTruncated = errors.New("sleeve: datagram ends within a record")

// readName reads a raw peer name. It may be nobody.
func readName(b []byte) peer.Name {
	return peer.Name(binary.BigEndian.Uint16(b))<<32 | peer.Name(binary.BigEndian.Uint32(b[2:]))
}

// appendRecordHeader appends what comes before a frame of n bytes.
func appendRecordHeader(b []byte, src, dst peer.Name, n int) []byte {
	b = src.AppendBytes(b)
	b = dst.AppendBytes(b)
	return binary.BigEndian.AppendUint16(b, uint16(n))
}

// records walks the records of a datagram.
type records struct {
	rest []byte
	err  error
}

// next returns the next record; its Data points into the datagram. ok is false at the end, when err says whether it was
// a clean one.
func (r *records) next() (f overlay.Frame, ok bool) {
	if len(r.rest) < recordLen {
		if len(r.rest) > 0 {
			r.err = errTruncated
		}
		return f, false
	}
	n := int(binary.BigEndian.Uint16(r.rest[2*peer.NameSize:]))
	if n > len(r.rest)-recordLen {
		r.err = errTruncated
		return f, false
	}
	f.Src, f.Dst = readName(r.rest), readName(r.rest[peer.NameSize:])
	f.Data, r.rest = r.rest[recordLen:recordLen+n:recordLen+n], r.rest[recordLen+n:]
	return f, true
}

// isSpecial reports whether a frame is one of the link's own: its Ethernet header is all zero.
func isSpecial(frame []byte) bool {
	return binary.BigEndian.Uint64(frame)|binary.BigEndian.Uint64(frame[overlay.HeaderLen-8:]) == 0
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// appendHeartbeat appends the frame that proves to the remote which connection this is.
func appendHeartbeat(b []byte, uid uint64) []byte {
	b = append(b, make([]byte, overlay.HeaderLen)...)
	return binary.BigEndian.AppendUint64(b, uid)
}

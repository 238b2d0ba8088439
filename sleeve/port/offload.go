package port

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/overweave/overweave/mesh/overlay"
)

// vnetLen is the length of the header that describes what the kernel left undone: struct virtio_net_hdr, in the byte order
// of the machine.
const vnetLen = 10

// Values in that header, named as in the kernel less the prefix.
const (
	flagNeedsCSum = 1
	gsoNone       = 0
	gsoTCPv4      = 1
	gsoUDP        = 3 // IP fragments; we do not ask for it
	gsoTCPv6      = 4
	gsoUDPL4      = 5
	gsoECN        = 0x80
)

const (
	etherHeader  = 14
	vlanTag      = 4
	sctpHeader   = 12
	sctpChecksum = 8 // offset
)

var errOffload = errors.New("port: unknown offload")

// vnetHeader is the decoded header.
type vnetHeader struct {
	flags, gso                        uint8
	gsoSize, checksumAt, checksumSkip int // checksumSkip: from checksumAt to the field
}

func parseVnet(b []byte) vnetHeader {
	return vnetHeader{
		flags: b[0], gso: b[1],
		gsoSize:      int(binary.NativeEndian.Uint16(b[4:])),
		checksumAt:   int(binary.NativeEndian.Uint16(b[6:])),
		checksumSkip: int(binary.NativeEndian.Uint16(b[8:])),
	}
}

// segments returns what the header says of the frame behind it. A frame that is no super-frame is made complete.
func (h vnetHeader) segments(frame []byte) (s overlay.Segments, err error) {
	s = overlay.Segments{Size: uint16(h.gsoSize), Transport: uint16(h.checksumAt)}
	switch h.gso &^ gsoECN {
	case gsoNone:
		if h.flags&flagNeedsCSum != 0 {
			err = h.complete(frame)
		}
		return overlay.Segments{}, err
	case gsoTCPv4:
		s.Protocol = overlay.TCP4
	case gsoTCPv6:
		s.Protocol = overlay.TCP6
	case gsoUDPL4:
		s.Protocol = overlay.UDP4
		if len(frame) > h.checksumAt && isIPv6(frame) {
			s.Protocol = overlay.UDP6
		}
	default:
		return s, errOffload
	}
	return s, nil
}

// complete computes the checksum that the header says is missing. That of SCTP, the only one in its place, is another sum.
func (h vnetHeader) complete(frame []byte) error {
	if h.checksumSkip != sctpChecksum {
		return overlay.CompleteChecksum(frame, h.checksumAt, h.checksumSkip)
	}
	if h.checksumAt < etherHeader || h.checksumAt+sctpHeader > len(frame) {
		return overlay.ErrSegments
	}
	packet := frame[h.checksumAt:]
	clear(packet[sctpChecksum:sctpHeader])
	sum := crc32.Checksum(packet, crc32.MakeTable(crc32.Castagnoli)) // RFC 9260, appendix A
	binary.LittleEndian.PutUint32(packet[sctpChecksum:], sum)
	return nil
}

// isIPv6 reports whether the type behind the VLAN tags of a frame is that of IPv6.
func isIPv6(frame []byte) bool {
	for at := etherHeader; at <= len(frame); at += vlanTag {
		switch binary.BigEndian.Uint16(frame[at-2:]) {
		case 0x86dd:
			return true
		case 0x8100, 0x88a8:
		default:
			return false
		}
	}
	return false
}

// describe is segments, checked against the frame; it returns what cuts the frame as well. The frame may be changed, and has to
// stay until the last segment is out.
func describe(header, frame []byte) (s overlay.Segments, g overlay.Segmenter, err error) {
	if s, err = parseVnet(header).segments(frame); err != nil {
		return s, g, err
	}
	g, err = overlay.NewSegmenter(frame, s)
	return s, g, err
}

// putVnet writes the header for a frame that is to be written. The checksum of a super-frame is set for it.
func putVnet(b *[vnetLen]byte, f *overlay.Frame) error {
	*b = [vnetLen]byte{}
	if f.Segments.Protocol == 0 {
		return nil
	}
	s, err := overlay.NewSegmenter(f.Data, f.Segments)
	if err != nil {
		return err
	}
	s.PutPseudoSum()
	b[0] = flagNeedsCSum
	switch f.Segments.Protocol {
	case overlay.TCP4:
		b[1] = gsoTCPv4
	case overlay.TCP6:
		b[1] = gsoTCPv6
	default:
		b[1] = gsoUDPL4
	}
	const flags, congestionWindowReduced = 13, 0x80
	if b[1] != gsoUDPL4 && f.Data[int(f.Segments.Transport)+flags]&congestionWindowReduced != 0 {
		b[1] |= gsoECN
	}
	binary.NativeEndian.PutUint16(b[2:], uint16(s.HeaderLen()))
	binary.NativeEndian.PutUint16(b[4:], f.Segments.Size)
	binary.NativeEndian.PutUint16(b[6:], f.Segments.Transport)
	binary.NativeEndian.PutUint16(b[8:], uint16(s.ChecksumOffset()))
	return nil
}

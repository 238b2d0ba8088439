package overlay

import (
	"encoding/hex"
	"fmt"
	"net"
	"strings"

	"github.com/overweave/overweave/mesh/peer"
)

// HeaderLen is the length of an Ethernet header without tags, in bytes.
const HeaderLen = 14

// Frame is an Ethernet frame with its addresses in the overlay.
type Frame struct {
	// Data is the frame from destination address to the end of its payload, without check sequence.
	Data []byte
	// Src is the peer at which the frame entered the overlay.
	Src peer.Name
	// Dst is the peer that has to deliver it; for a flooded frame that is the next hop, at every hop.
	Dst peer.Name
	// Flooded is true if the frame goes to many: no answer to its sender is due.
	Flooded bool
	// Hops is how many links the frame has come over; carriers that limit it count.
	Hops uint8
	// Segments is set for a super-frame. Only a Segmented port or link gets one.
	Segments Segments
}

// MAC is an Ethernet address.
type MAC [6]byte

// ParseMAC reads "02:00:00:00:00:01".
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(MAC{}) {
		return MAC{}, fmt.Errorf("invalid MAC address %q", s)
	}
	return MAC(hw), nil
}

// IsGroup reports whether m is a multicast or the broadcast address.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// String returns the usual text form.
func (m MAC) String() string {
	var b strings.Builder
	for i := range m {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(hex.EncodeToString(m[i : i+1]))
	}
	return b.String()
}

// MarshalText implements [encoding.TextMarshaler].
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *MAC) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMAC(string(text))
	return err
}

// addresses returns the two addresses of a frame; ok is false if it is too short to have a header.
func addresses(frame []byte) (dst, src MAC, ok bool) {
	if len(frame) < HeaderLen {
		return MAC{}, MAC{}, false
	}
	return MAC(frame[0:6]), MAC(frame[6:12]), true
}

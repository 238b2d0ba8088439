package fastdp

import (
	"encoding/binary"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Tags of control messages, section 4 of the fastdp specification.
const (
	tagHeartbeatAck = 0
	tagInitSARemote = 1
)

const (
	heartbeatUID  = overlay.HeaderLen // offsets in a heartbeat frame
	heartbeatSize = heartbeatUID + 8
	heartbeatMin  = heartbeatSize + 2

	maxFrame = 65535 // that the tunnel can be asked to carry, in bytes
)

// vni is a VXLAN network identifier, which names the peers at which a frame entered and is to leave the overlay: section 2.3.
type vni uint32

func newVNI(src, dst peer.ShortID) vni {
	return vni(src&peer.MaxShortID) | vni(dst&peer.MaxShortID)<<12
}

func (v vni) src() peer.ShortID { return peer.ShortID(v) & peer.MaxShortID }
func (v vni) dst() peer.ShortID { return peer.ShortID(v>>12) & peer.MaxShortID }

// appendHeartbeat appends a heartbeat frame of some length, at least heartbeatMin: section 5.3.
func appendHeartbeat(b []byte, connUID uint64, length int) []byte {
	start := len(b)
	b = append(b, make([]byte, length)...)
	frame := b[start:]
	binary.BigEndian.PutUint64(frame[heartbeatUID:], connUID)
	binary.BigEndian.PutUint16(frame[heartbeatSize:], uint16(length))
	return b
}

// parseHeartbeat returns the connection that a frame without addresses is about; ok is false if it is no heartbeat, or not as
// long as it was when it was sent.
func parseHeartbeat(frame []byte) (connUID uint64, ok bool) {
	if len(frame) < heartbeatMin || !unaddressed(frame) || binary.BigEndian.Uint16(frame[12:]) != 0 {
		return 0, false
	}
	if binary.BigEndian.Uint16(frame[heartbeatSize:]) != uint16(len(frame)) {
		return 0, false
	}
	return binary.BigEndian.Uint64(frame[heartbeatUID:]), true
}

// unaddressed reports whether both MAC addresses of a frame are zero: such frames are never forwarded.
func unaddressed(frame []byte) bool {
	return len(frame) >= overlay.HeaderLen && [12]byte(frame) == [12]byte{}
}

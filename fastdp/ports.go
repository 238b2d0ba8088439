package fastdp

import (
	"fmt"
	"maps"
	"slices"

	"github.com/overweave/overweave/odp"
)

// role is what a port of the datapath is for.
type role uint8

const (
	roleNone   role = iota // not ours
	roleLocal              // stations of this host are behind it
	roleUser               // user-space overlays are behind it
	roleTunnel             // other peers are
)

// portInfo describes a port of the datapath.
type portInfo struct {
	number  uint32
	name    string
	role    role
	udp     uint16 // roleTunnel: where other peers send to
	ifindex int32
}

// portMap holds the ports of the datapath. It is immutable.
type portMap struct {
	byNumber map[uint32]portInfo
	local    []uint32          // in order
	user     uint32            // 0: there is none
	tunnels  map[uint16]uint32 // by UDP port
}

func newPortMap(ports []portInfo) *portMap {
	m := &portMap{byNumber: map[uint32]portInfo{}, tunnels: map[uint16]uint32{}}
	for _, p := range ports {
		m.byNumber[p.number] = p
		switch p.role {
		case roleLocal:
			m.local = append(m.local, p.number)
		case roleUser:
			m.user = p.number
		case roleTunnel:
			m.tunnels[p.udp] = p.number
		}
	}
	slices.Sort(m.local)
	return m
}

func (m *portMap) equal(o *portMap) bool { return maps.Equal(m.byNumber, o.byNumber) }

// isLocal reports whether stations of this host are behind a port.
func (m *portMap) isLocal(number uint32) bool { return m.byNumber[number].role == roleLocal }

// changed returns the numbers of ports that are not what they were, but not those that are new.
func (m *portMap) changed(now *portMap) (numbers []uint32) {
	for number, p := range m.byNumber {
		if now.byNumber[number] != p {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

func tunnelName(udp uint16) string { return fmt.Sprintf("vxlan-%d", udp) }

// roleOf tells what a vport is for. The name of the port of user-space overlays is given, and whether the datapath's own
// device is a port of the host.
func roleOf(v odp.Vport, user string, host bool) (r role, udp uint16) {
	if v.Type == odp.VXLAN {
		return roleTunnel, v.DstPort
	}
	var port uint16
	if _, err := fmt.Sscanf(v.Name, "vxlan-%d", &port); err == nil && tunnelName(port) == v.Name {
		return roleTunnel, port
	}
	switch {
	case v.Number == odp.LocalPort && !host:
		return roleNone, 0
	case user != "" && v.Name == user:
		return roleUser, 0
	case v.Type == odp.Netdev || v.Type == odp.Internal:
		return roleLocal, 0
	}
	return roleNone, 0
}

package fastdp

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
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

// stationTable says behind which local port a station is. The latest word holds. It is safe for concurrent use; the zero
// value is empty.
type stationTable struct {
	mu      sync.RWMutex
	entries map[overlay.MAC]portEntry
}

type portEntry struct {
	port uint32
	seen time.Time
}

// learn notes where a station was seen, and reports whether that is new.
func (t *stationTable) learn(m overlay.MAC, port uint32, now time.Time) (moved bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries == nil {
		t.entries = map[overlay.MAC]portEntry{}
	}
	old, known := t.entries[m]
	if !known && len(t.entries) >= overlay.MaxMACs {
		return false
	}
	t.entries[m] = portEntry{port, now}
	return !known || old.port != port
}

// port returns the port of a station.
func (t *stationTable) port(m overlay.MAC) (port uint32, known bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e, known := t.entries[m]
	return e.port, known
}

// removeIf forgets stations and returns them.
func (t *stationTable) removeIf(drop func(portEntry) bool) (gone []overlay.MAC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for m, e := range t.entries {
		if drop(e) {
			gone = append(gone, m)
			delete(t.entries, m)
		}
	}
	return gone
}

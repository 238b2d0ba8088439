package fastdp

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/overweave/overweave/odp"
)

// counters count what happened since the start.
type counters struct {
	misses, heartbeats, foreign, snooped, odd     atomic.Uint64
	replaced, removed, idle, adopted, orphans     atomic.Uint64
	flowErrors, executeErrors, upkeepErrors       atomic.Uint64
	lostReplies, eventsLost, overruns, portErrors atomic.Uint64
	readerRestarts, readersStuck                  atomic.Uint64
	restarts, repairs                             atomic.Uint64
	loops, tooBig, noRoom, limited, crowded       atomic.Uint64
	tests, testsFailed, testsUnable               atomic.Uint64

	lost   atomic.Uint64 // of the kernel, when it was last asked
	kernel atomic.Pointer[odp.Datapath]
}

// Status describes a Datapath for people and for metrics. What its links do is in their own status. Numbers count since the
// start unless they say otherwise.
type Status struct {
	Running bool   `json:"running"`
	Problem string `json:"problem,omitempty"` // why it does not run
	Name    string `json:"name"`
	MTU     int    `json:"mtu"`
	// Readers take from the kernel the frames that no flow matches.
	Readers []ReaderStatus `json:"readers"`
	Ports   []PortStatus   `json:"ports"`
	Links   int            `json:"links"` // confirmed ones
	// Flows are the flows there are now, by what they are for.
	Flows map[string]int `json:"flows"`
	// Kernel is what the kernel counted when the flows were last looked at.
	Kernel odp.DatapathStats `json:"kernel"`
	Masks  int               `json:"masks"`
	// Counts are numbers of events by name; those that are zero are left out.
	Counts map[string]uint64 `json:"counts"`
}

// ReaderStatus describes a reader of frames that no flow matches. Numbers count since its socket was opened.
type ReaderStatus struct {
	Tunnels bool            `json:"tunnels"` // it is for tunnels, not for the host's own ports
	Socket  uint32          `json:"socket"`
	Stats   odp.ReaderStats `json:"stats"`
}

// PortStatus describes a port of a datapath.
type PortStatus struct {
	Number uint32 `json:"number"`
	Name   string `json:"name"`
	Role   string `json:"role"` // local, user, tunnel or none
	UDP    uint16 `json:"udp,omitempty"`
	// Offloads says of a tunnel whether checksums and segmentation are left to the interfaces of the host: "in use" or why not.
	// What self-tests found is in the status of the links.
	Offloads string `json:"offloads,omitempty"`
}

var roleNames = [...]string{"none", "local", "user", "tunnel"}

// Status describes the datapath as it is now.
func (d *Datapath) Status() Status {
	st := Status{
		Name: d.cfg.Name, MTU: d.cfg.MTU, Problem: d.problem(), Links: len(d.table.links.all()), Flows: map[string]int{},
		Counts: d.stats.all(),
	}
	if k := d.kernel.Load(); k != nil {
		st.Running, st.Readers = true, k.readerStatus()
	}
	for _, p := range d.table.ports.Load().byNumber {
		port := PortStatus{Number: p.number, Name: p.name, Role: roleNames[p.role], UDP: p.udp}
		if p.role == roleTunnel {
			port.Offloads = d.safe.describe(p.udp)
		}
		st.Ports = append(st.Ports, port)
	}
	slices.SortFunc(st.Ports, func(a, b PortStatus) int { return cmp.Compare(a.Number, b.Number) })
	d.index.each(func(k flowKey, _ *entry) { st.Flows[k.shape.String()]++ })
	if dp := d.stats.kernel.Load(); dp != nil {
		st.Kernel, st.Masks = dp.Stats, int(dp.Masks.Masks)
	}
	return st
}

func (c *counters) all() map[string]uint64 {
	counts := map[string]uint64{}
	for name, n := range map[string]*atomic.Uint64{
		"misses": &c.misses, "heartbeats": &c.heartbeats, "foreign": &c.foreign, "memberships": &c.snooped, "odd": &c.odd,
		"flows_replaced": &c.replaced, "flows_removed": &c.removed, "flows_idle": &c.idle,
		"flows_adopted": &c.adopted, "flows_orphaned": &c.orphans, "flows_refused": &c.flowErrors, "flows_no_room": &c.noRoom,
		"packets_refused": &c.executeErrors, "upkeep_errors": &c.upkeepErrors, "replies_lost": &c.lostReplies,
		"events_lost": &c.eventsLost, "misses_lost_bursts": &c.overruns, "port_errors": &c.portErrors,
		"reader_restarts": &c.readerRestarts, "readers_stuck": &c.readersStuck, "restarts": &c.restarts, "repairs": &c.repairs,
		"loops": &c.loops, "too_big": &c.tooBig, "frames_limited": &c.limited, "stations_refused": &c.crowded,
		"offload_tests": &c.tests, "offload_tests_failed": &c.testsFailed, "offload_tests_unable": &c.testsUnable,
	} {
		if v := n.Load(); v > 0 {
			counts[name] = v
		}
	}
	return counts
}

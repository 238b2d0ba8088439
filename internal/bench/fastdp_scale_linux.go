package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

const (
	scalePeers     = 100
	scaleBatch     = 100 // frames at once
	scaleHeartbeat = 5 * time.Second
)

// scaleResult is about one datapath with many peers, and a change of routes that concerns none of them.
type scaleResult struct {
	MACs     int     `json:"macs"`
	Peers    int     `json:"peers"`
	Flows    int     `json:"flows"`          // that count packets to one of the addresses
	Seconds  float64 `json:"route_seconds"`  // from the change until a frame for each was counted after it
	Touched  uint64  `json:"flows_touched"`  // replaced or removed by the change
	Reset    int     `json:"flows_reset"`    // whose count is not that of all packets, before and after
	NewPeers int     `json:"routes_to_more"` // peers that the change added
	Met      bool    `json:"met"`            // every address has a flow, and none was touched
}

func (s *scaleResult) print(out io.Writer) {
	fmt.Fprintf(out, "\n%d MAC addresses on %d peers: %d flows; routes to %d more peers and a frame to each address took %.3f s, touched %d flows, and %d lost count\n",
		s.MACs, s.Peers, s.Flows, s.NewPeers, s.Seconds, s.Touched, s.Reset)
	fmt.Fprintf(out, "\nBar, no flow touched: %s\n", metOrMissed(s.Met))
}

// measureScale has a station speak to every address, changes the routes, and has it speak again: a flow that was not touched
// has counted the frames from before and after.
func measureScale(ctx context.Context, macs int) (r *scaleResult, err error) {
	l, err := lab.New()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	h, err := l.Host("host")
	if err != nil {
		return nil, err
	}
	far, err := l.Host("far")
	if err != nil {
		return nil, err
	}
	here := netip.MustParseAddr("10.99.0.1")
	if _, err := l.Link(h, far, lab.LinkConfig{A: netip.PrefixFrom(here, 16)}); err != nil {
		return nil, err
	}
	if err := h.Do(func() error { return vethPair(missIn, missInPort) }); err != nil {
		return nil, err
	}
	n, err := openNode(ctx, h, nodeConfig{name: scalePeer(0), addr: here})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	if err := n.dp.AddPort(ctx, missInPort); err != nil {
		return nil, err
	}
	beats := &group{}
	if err := heartbeats(far, n, beats); err != nil {
		return nil, errors.Join(err, beats.stop())
	}
	defer func() { err = errors.Join(err, beats.stop()) }()
	return n.scale(ctx, h, macs)
}

// heartbeats has the simulated peers say every few seconds that they are there, from their addresses, all of which are at one
// host.
func heartbeats(far *lab.Host, to *node, g *group) error {
	err := far.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		all := &net.IPNet{IP: scaleAddr(0).AsSlice(), Mask: net.CIDRMask(24, 32)}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: all, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST})
	})
	if err != nil {
		return err
	}
	tunnel := net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.addr.Addr(), fastdp.DefaultPort))
	for i := range scalePeers {
		conn, err := far.ListenPacket("udp", netip.AddrPortFrom(scaleAddr(i+1), 0).String())
		if err != nil {
			return err
		}
		g.closers = append(g.closers, conn.Close)
		frame := heartbeat(scalePeer(i+1), to.name, uint64(i+1))
		g.run(func(ctx context.Context) error {
			for pause(ctx, scaleHeartbeat) == nil {
				_, _ = conn.WriteTo(frame, tunnel) // the next one may arrive
			}
			return nil
		})
	}
	return nil
}

// heartbeat is the payload of a tunnel packet: section 5.3 of the fastdp specification.
func heartbeat(from, to peer.Name, connUID uint64) []byte {
	vni := uint32(from)&uint32(peer.MaxShortID) | uint32(to)&uint32(peer.MaxShortID)<<12
	b := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8)
	frame := make([]byte, 64)
	binary.BigEndian.PutUint64(frame[14:], connUID)
	binary.BigEndian.PutUint16(frame[22:], uint16(len(frame)))
	return append(b, frame...)
}

func scaleAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 1, byte(i)}) }

// scalePeer names a peer. Its short id, as of newStar, is its number and some more.
func scalePeer(i int) peer.Name { return peer.MustParse(fmt.Sprintf("0a:00:00:00:01:%02x", i)) }

// simulate makes a link to a peer that is not there, but says that it hears us.
func (n *node) simulate(i int) (*overlay.Bundle, error) {
	b, err := n.sw.Prepare(overlay.Params{
		Self: n.name, Remote: scalePeer(i), Local: n.addr, RemoteAddr: netip.AddrPortFrom(scaleAddr(i), 40000),
		ConnUID: uint64(i), Features: map[string]string{overlay.FeatureKey: n.sw.Offer()},
	}, func(byte, []byte) error { return nil }, func(overlay.Event) {})
	if err == nil {
		b.Confirm()
		b.Control(overlay.ControlTag, []byte{0, 0}) // HeartbeatAck
	}
	return b, err
}

func (n *node) scale(ctx context.Context, h *lab.Host, macs int) (r *scaleResult, err error) {
	r = &scaleResult{MACs: macs, Peers: scalePeers, NewPeers: 1}
	peers := make([]peer.Name, 0, scalePeers+r.NewPeers)
	for i := range scalePeers {
		peers = append(peers, scalePeer(i+1))
	}
	n.fwd.SetRoutes(newStar(n.name, peers...))
	for i := range scalePeers {
		b, err := n.simulate(i + 1)
		if err != nil {
			return nil, err
		}
		defer b.Close()
	}
	for i := range macs {
		n.fwd.LearnRemote(time.Now(), pairMAC(3, i), peers[i%scalePeers])
	}
	var in int
	if err := h.Do(func() (err error) { in, err = packetSocket(missIn); return err }); err != nil {
		return nil, err
	}
	defer unix.Close(in)
	var first map[odp.MAC]uint64
	for times := range 2 { // the frame of a miss is not counted
		if first, err = n.speak(ctx, h, in, macs, times); err != nil {
			return nil, err
		}
	}
	r.Flows = len(first)
	before, start := n.touched(), time.Now()
	n.fwd.SetRoutes(newStar(n.name, append(peers, scalePeer(scalePeers+1))...))
	second, err := n.speak(ctx, h, in, macs, 2)
	if err != nil {
		return nil, err
	}
	r.Seconds, r.Touched = time.Since(start).Seconds(), n.touched()-before
	for mac := range first {
		if second[mac] < 2 {
			r.Reset++
		}
	}
	r.Met = r.Flows == macs && r.Touched == 0 && r.Reset == 0
	return r, nil
}

func (n *node) touched() uint64 {
	counts := n.dp.Status().Counts
	return counts["flows_replaced"] + counts["flows_removed"]
}

// speak sends a frame to every address until the flows have counted so many for each, or no more than they do.
func (n *node) speak(ctx context.Context, h *lab.Host, in, macs, times int) (counts map[odp.MAC]uint64, err error) {
	for i := range macs {
		if _, err := unix.Write(in, pairFrame(pairMAC(3, i), pairMAC(2, 0))); err != nil {
			return nil, err
		}
		if times > 0 || i%scaleBatch != scaleBatch-1 {
			continue
		}
		for range 40 { // no more misses than the sockets can have waiting
			if flowsOf(n.dp.Status()) > i {
				break
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return nil, err
			}
		}
	}
	for range 20 {
		if counts, err = flowCounts(ctx, h); err != nil {
			return nil, err
		}
		full := 0
		for _, c := range counts {
			if c >= uint64(times) {
				full++
			}
		}
		if full == macs {
			break
		}
		if err := pause(ctx, pollInterval); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// flowCounts returns how many packets the flows of the datapath have counted, by the destination that they are for.
func flowCounts(ctx context.Context, h *lab.Host) (map[odp.MAC]uint64, error) {
	ns, err := device.OpenNetNS(h.Path())
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	c, err := odp.Open(ctx, odp.Config{NetNS: ns.Fd()})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	dp, err := c.Datapath(ctx, fastdpDevice)
	if err != nil {
		return nil, err
	}
	counts := map[odp.MAC]uint64{}
	for f, err := range c.Flows(ctx, dp.Index, odp.DumpOptions{}) {
		if err != nil {
			return nil, err
		}
		for _, field := range f.Match {
			if eth, ok := field.Value().(odp.Ethernet); ok && eth.Dst[0] == 2 && eth.Dst[1] == 3 {
				counts[eth.Dst] += f.Stats.Packets
			}
		}
	}
	return counts, nil
}

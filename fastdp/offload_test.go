package fastdp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/odptest"
)

// fakeDevices stand for the devices of a host. What is sent is answered as a peer would.
type fakeDevices struct {
	r    *rig
	fail error // of turning offloads off

	mu    sync.Mutex
	works bool // offloads do
	off   bool
	lies  map[uint64]bool // connections whose remotes say that all is spoiled
	sent  int
	carry [][]step // what the datapath would have done to each frame
}

func (d *fakeDevices) offloads(string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.off, nil
}

func (d *fakeDevices) setOffloads(device string, on bool) error {
	require.Equal(d.r.t, "vxlan-6784", device)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.off = !on
	}
	return d.fail
}

func (d *fakeDevices) send(device string, frame []byte, segment int) error {
	require.Equal(d.r.t, "datapath", device)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent++
	for f, err := range d.r.conn.Flows(d.r.t.Context(), d.r.dp(), odp.DumpOptions{}) {
		if err == nil && f.UFID == testFlow {
			steps, _ := parseActions(f.Actions)
			d.carry = append(d.carry, steps)
		}
	}
	for _, part := range cut(frame, segment, d.works || d.off) {
		p, ok := parseTest(part)
		require.True(d.r.t, ok)
		p.kind, p.right = kindVerdict, isIntact(part) && !d.lies[p.uid]
		d.r.arrive(p)
	}
	return nil
}

// arrive has a frame of fastdp2 arrive over the link that it is about.
func (r *rig) arrive(p probe) { r.arriveFrame(p.uid, p.appendTo(nil, probeSmall)) }

// arriveFrame has a frame without addresses arrive over a link.
func (r *rig) arriveFrame(uid uint64, frame []byte) {
	l := r.table.links.connection(uid)
	if l == nil {
		return
	}
	port, from := r.number("vxlan-6784"), l.outer.reversed()
	key := odptest.Key(odp.InPort(port), odp.Tunnel{ID: uint64(newVNI(id(l.params.Remote), id(self))), Src: from.src, Dst: from.dst, TTL: 64, SrcPort: 5, DstPort: 6784},
		odp.Ethernet{}, odp.EtherType(0))
	require.True(r.t, r.k.Miss(r.dp(), port, frame, key))
}

// upSocket is a socket of rtnetlink to a kernel whose devices are all up.
type upSocket struct {
	odp.Socket
	answers [][]byte
}

func (s *upSocket) SetDeadline(time.Time) error { return nil }
func (s *upSocket) Port() uint32                { return 1 }
func (s *upSocket) Close() error                { return nil }

func (s *upSocket) Send(b []byte) error {
	seq := b[8:12]
	message := func(typ uint16, body []byte) {
		m := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
		m = binary.NativeEndian.AppendUint16(m, typ)
		m = append(append(append(m, 0, 0), seq...), 1, 0, 0, 0)
		s.answers = append(s.answers, append(m, body...))
	}
	device := make([]byte, 16)
	device[8] = 1                                  // IFF_UP
	message(16, device)                            // RTM_NEWLINK
	message(2, append(make([]byte, 4), b[:16]...)) // NLMSG_ERROR: none
	return nil
}

func (s *upSocket) Receive(bufs [][]byte, lengths []int) (int, error) {
	if len(s.answers) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	lengths[0] = copy(bufs[0], s.answers[0])
	s.answers = s.answers[1:]
	return 1, nil
}

// tested runs a test with a link of fastdp2 to B, whose probes are answered.
func tested(t *testing.T, devices *fakeDevices, test func(r *rig, b *overlay.Bundle)) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		devices.r = r
		r.prepare = func(d *Datapath) { d.devices = devices }
		r.start(func(c *Config) {
			c.ODP.Dial = func(o odp.SocketOptions) (odp.Socket, error) {
				if o.Protocol == odp.ProtocolRoute {
					return &upSocket{}, nil
				}
				return r.dial(o)
			}
		})
		r.routes = testRoutes()
		r.fwd.SetRoutes(r.routes)
		b := r.connect(nameB, addrB, "fastdp2 fastdp sleeve")
		stop, done := make(chan struct{}), make(chan struct{})
		go r.answerProbes(stop, done)
		defer func() { close(stop); <-done }()
		test(r, b)
	})
}

// answerProbes answers the probes of links.
func (r *rig) answerProbes(stop, done chan struct{}) {
	defer close(done)
	for seen := 0; ; {
		select {
		case <-stop:
			return
		case <-time.After(10 * time.Millisecond):
		}
		all := r.k.Executed()
		for _, x := range all[seen:] {
			if p, ok := parseProbe(x.Packet); ok && p.kind == kindProbe {
				p.kind, p.size = kindAnswer, uint16(len(x.Packet))
				r.arrive(p)
			}
		}
		seen = len(all)
	}
}

func offloadsOf(b *overlay.Bundle) string { return b.Status().Offloads[offloadName] }

func (r *rig) tunnelOffloads() string {
	for _, p := range r.Status().Ports {
		if p.Role == "tunnel" {
			return p.Offloads
		}
	}
	return ""
}

func TestOffloadsWork(t *testing.T) {
	devices := &fakeDevices{works: true}
	tested(t, devices, func(r *rig, b *overlay.Bundle) {
		time.Sleep(5*time.Minute + 10*time.Second)
		require.Equal(t, offloadsInUse, offloadsOf(b))
		require.Equal(t, offloadsInUse, r.tunnelOffloads())
		require.EqualValues(t, 6, r.Status().Counts["offload_tests"])
		require.Equal(t, 6, devices.sent)
		for _, steps := range devices.carry {
			require.True(t, sameSteps([]step{r.tunnelStep(newVNI(id(self), id(nameB)))}, steps))
		}
		require.Len(t, devices.carry, 6, "a flow carried each frame")
		require.Empty(t, r.consistent(), "and is gone")
	})
}

func TestOffloadsSpoil(t *testing.T) {
	devices := &fakeDevices{}
	tested(t, devices, func(r *rig, b *overlay.Bundle) {
		require.Equal(t, offloadsInUse+"; not tested yet", offloadsOf(b))
		time.Sleep(3 * time.Second)
		require.Equal(t, "off: "+errSpoiled.Error(), offloadsOf(b))
		require.Equal(t, "off: "+errSpoiled.Error(), r.tunnelOffloads())
		require.True(t, devices.off)
		time.Sleep(5 * time.Minute)
		require.EqualValues(t, 1, r.Status().Counts["offload_tests_failed"])
		require.EqualValues(t, 6, r.Status().Counts["offload_tests"])

		devices.off = false // by others, or it is another device
		r.keepSafe(6784)
		require.True(t, devices.off)
		require.EqualValues(t, 1, r.Status().Counts["repairs"])

		r.stop()
		r.start(nil) // it is noticed what is so already
		require.Equal(t, offloadsInUse, r.tunnelOffloads())
		r.keepSafe(6784)
		require.Equal(t, "off: "+errFoundOff.Error(), r.tunnelOffloads())
	})
}

// TestOffloadsSpoilAlways: it does not help to turn them off, or it cannot be done. Then the link is not used.
func TestOffloadsSpoilAlways(t *testing.T) {
	devices := &fakeDevices{fail: syscall.EPERM}
	tested(t, devices, func(r *rig, b *overlay.Bundle) {
		time.Sleep(10 * time.Second)
		first := b.Statuses()[0]
		require.Equal(t, "in use; "+errSpoiled.Error()+", and offloads cannot be turned off: operation not permitted", first.Offloads[offloadName])
		require.Contains(t, first.Reason, "operation not permitted")
		require.Equal(t, "sleeve", b.Status().Overlay)
	})
	devices = &fakeDevices{fail: errors.New("once")}
	tested(t, devices, func(r *rig, b *overlay.Bundle) {
		r.safe.set(6784, safety{reason: errFoundOff})
		time.Sleep(10 * time.Second)
		require.Equal(t, "off: "+errFoundOff.Error()+"; "+errSpoiled.Error(), b.Statuses()[0].Offloads[offloadName])
		require.EqualValues(t, 1, r.Status().Counts["offload_tests_failed"])
	})
	devices = &fakeDevices{works: true, lies: map[uint64]bool{uint64(nameB): true}}
	tested(t, devices, func(r *rig, b *overlay.Bundle) {
		require.Eventually(t, func() bool { return devices.isOff() }, 5*time.Second, 10*time.Millisecond)
		time.Sleep(10 * time.Second)
		require.False(t, devices.isOff(), "it did not help")
		require.Equal(t, offloadsInUse, r.tunnelOffloads())
		require.Equal(t, "sleeve", b.Status().Overlay)
		require.Equal(t, errSpoiled.Error(), b.Statuses()[0].Reason)
		time.Sleep(3 * time.Minute)
		require.False(t, devices.isOff())
		devices.mu.Lock()
		delete(devices.lies, uint64(nameB))
		devices.mu.Unlock()
		time.Sleep(testInterval + 5*time.Second)
		require.Equal(t, Name2, b.Status().Overlay, "it is used again when a test is passed")
	})
}

// TestOffloadsOnOneWord: one peer among others does not turn offloads off for all.
func TestOffloadsOnOneWord(t *testing.T) {
	devices := &fakeDevices{works: true, lies: map[uint64]bool{uint64(nameC): true}}
	tested(t, devices, func(r *rig, b *overlay.Bundle) {
		time.Sleep(time.Second)
		c := r.connect(nameC, netip.MustParseAddr("10.0.0.3"), "fastdp2 fastdp sleeve")
		for range 300 {
			time.Sleep(time.Second)
			require.False(t, devices.isOff())
		}
		require.Equal(t, Name2, b.Status().Overlay)
		require.Equal(t, "sleeve", c.Status().Overlay)
		require.Equal(t, errSpoiled.Error(), c.Statuses()[0].Reason)
	})
}

// TestOffloadsTrialEnds: a link whose failure turned offloads off ends before it is known whether that helped.
func TestOffloadsTrialEnds(t *testing.T) {
	devices := &fakeDevices{works: true, lies: map[uint64]bool{uint64(nameB): true}}
	tested(t, devices, func(r *rig, b *overlay.Bundle) {
		require.Eventually(t, func() bool { return devices.isOff() }, 5*time.Second, 10*time.Millisecond)
		b.Close()
		require.False(t, devices.isOff())
		require.Equal(t, offloadsInUse, r.tunnelOffloads())
	})
}

func (d *fakeDevices) isOff() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off
}

// TestOffloadsUntested: where no frame can be sent that is unfinished, nothing is concluded. What an ended run left is removed.
func TestOffloadsUntested(t *testing.T) {
	devices := &fakeDevices{works: true}
	tested(t, devices, func(r *rig, b *overlay.Bundle) {
		r.stop()
		err := r.conn.CreateFlow(r.t.Context(), r.dp(), odp.Flow{UFID: testFlow, Match: testMatch(), Actions: actions(nil)})
		require.NoError(t, err)
		r.start(nil) // without devices
		require.Empty(t, r.consistent())
		require.EqualValues(t, 1, r.Status().Counts["flows_orphaned"])
		r.mesh()
		again := r.connect(nameB, addrB, "fastdp2 fastdp sleeve")
		time.Sleep(10 * time.Second)
		require.Contains(t, offloadsOf(again), "in use; not tested: ")
		require.Zero(t, r.Status().Counts["offload_tests_failed"])
		require.NotZero(t, r.Status().Counts["offload_tests_unable"])
	})
	bubble(t, func(t *testing.T, r *rig) {
		require.Contains(t, offloadsOf(r.mesh()), "peers with this overlay cannot")
	})
}

package fastdp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/overweave/overweave/odp"
)

// offloadName is the entry of a link's Offloads.
const offloadName = "checksums and segmentation"

const (
	offloadsInUse = "in use"
	offloadsOff   = "off: "
)

var errFoundOff = errors.New("turned off by others, or by a former run")

// safeTunnels notes the tunnels, by UDP port, whose packets are finished before they are encapsulated, and why. It is safe for
// concurrent use; the zero value is empty.
type safeTunnels struct {
	mu  sync.Mutex
	why map[uint16]error
}

// reason says why a tunnel's offloads are off, nil if they are not.
func (s *safeTunnels) reason(udp uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why[udp]
}

func (s *safeTunnels) describe(udp uint16) string {
	if why := s.reason(udp); why != nil {
		return offloadsOff + why.Error()
	}
	return offloadsInUse
}

// note notes a reason, unless there is one already.
func (s *safeTunnels) note(udp uint16, why error) (isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = map[uint16]error{}
	}
	if isNew = s.why[udp] == nil; isNew {
		s.why[udp] = why
	}
	return isNew
}

// goSafe turns the offloads of a tunnel off. They stay off until its device is removed.
func (d *Datapath) goSafe(udp uint16, why error) error {
	if d.safe.reason(udp) != nil {
		return nil
	}
	if err := d.devices.stopOffloads(tunnelName(udp)); err != nil {
		return err
	}
	if d.safe.note(udp, why) {
		d.log.Warn("fastdp: checksum and segmentation offloads are turned off", "device", tunnelName(udp), "why", why)
	}
	return nil
}

// keepSafe has the offloads of a tunnel stay off, also if its device is another one by now, and notes if they were off before.
func (d *Datapath) keepSafe(udp uint16) {
	device := tunnelName(udp)
	on, err := d.devices.offloads(device)
	switch {
	case err == nil && !on:
		d.safe.note(udp, errFoundOff)
	case err == nil && d.safe.reason(udp) != nil:
		if err = d.devices.stopOffloads(device); err == nil {
			d.stats.repairs.Add(1)
			d.log.Warn("fastdp: checksum and segmentation offloads are turned off again", "device", device)
		}
	}
	if err != nil {
		d.log.Debug("fastdp: offloads of a tunnel", "device", device, "err", err)
	}
}

// testFlow is the name of the flow that carries a frame of a self-test. It lives for as long as it takes to send that, and is
// not in the index; if a run ends between, the next one does not know it and removes it.
const testFlow odp.UFID = "overweave\x00test\x00\x00"

// testMatch returns what the flow matches: frames without addresses that the host sends by the datapath's own device. They are
// never forwarded, neither here nor at the other end of a tunnel.
func testMatch() odp.Match {
	return odp.Match{
		odp.Exact(odp.RecircID(stageFirst)), odp.Exact(odp.InPort(odp.LocalPort)),
		odp.Masked(odp.Ethernet{}, odp.Ethernet{Src: odp.Broadcast(), Dst: odp.Broadcast()}),
	}
}

// sendUnfinished sends a frame through a tunnel that is left unfinished for interfaces to finish, as no request to the datapath
// can: by a device of the host, and a flow.
func (d *Datapath) sendUnfinished(frame []byte, segment int, act []odp.Action) error {
	k := d.kernel.Load()
	if k == nil {
		return errNotRunning
	}
	d.testMu.Lock()
	defer d.testMu.Unlock()
	ctx := context.Background()
	if _, err := k.conn.RaiseDevice(ctx, d.cfg.Name); err != nil {
		return err
	}
	if err := k.conn.CreateFlow(ctx, k.dp, odp.Flow{UFID: testFlow, Match: testMatch(), Actions: act}); err != nil {
		return err
	}
	err := d.devices.send(d.cfg.Name, frame, segment)
	_, errDelete := k.conn.DeleteFlow(ctx, k.dp, odp.Flow{UFID: testFlow})
	if isGone(errDelete) {
		errDelete = nil // a sweep took it for somebody else's; the frame may be lost, and is sent again
	}
	return errors.Join(err, errDelete)
}

// sendTest sends a frame of a self-test.
func (l *link) sendTest(a action) {
	act, ok := l.action(l.params.Self, l.params.Remote)
	err := errNoWay
	if ok {
		err = l.d.sendUnfinished(a.frame, a.segment, act)
	}
	if err == nil {
		return
	}
	l.d.stats.testsUnable.Add(1)
	l.log.Debug("fastdp: offloads cannot be tested", "err", err)
	l.mu.Lock()
	l.life.common().test.cannot(time.Now(), err)
	l.mu.Unlock()
}

var errNoWay = errors.New("no way to the peer yet")

// judge draws the conclusion from a self-test. After a failure the tunnel is tested once more without offloads.
func (l *link) judge(failure error) {
	if failure == nil {
		l.d.stats.tests.Add(1)
		return
	}
	l.d.stats.testsFailed.Add(1)
	err := l.d.goSafe(l.udp, failure)
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.life.common().test
	switch {
	case err != nil:
		t.result = fmt.Errorf("%w, and offloads cannot be turned off: %w", failure, err)
	case !l.retried:
		if l.retried, t.done = true, false; t.under {
			t.begin(time.Now())
		}
	}
}

// offloads says how the link's tunnel stands with offloads. The caller holds mu.
func (l *link) offloads(t *selfTest) string {
	text := l.d.safe.describe(l.udp)
	switch {
	case l.name == Name:
		return text + "; not tested: peers with this overlay cannot"
	case !t.done:
		return text + "; not tested yet"
	case t.result != nil:
		return text + "; " + t.result.Error()
	}
	return text
}

package fastdp

import (
	"cmp"
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

// safeTunnels notes the tunnels, by UDP port, whose packets are finished before they are encapsulated. It is safe for
// concurrent use; the zero value is empty.
type safeTunnels struct {
	setting sync.Mutex // held while offloads are looked at or set; taken before mu
	mu      sync.Mutex
	why     map[uint16]safety
}

// safety says why a tunnel's offloads are off.
type safety struct {
	reason error
	trial  *link // whose failure that was, as long as it is not known whether it helps; nil: it does, or nobody here did it
}

// get returns how a tunnel stands, the zero value if its offloads are in use.
func (s *safeTunnels) get(udp uint16) safety {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why[udp]
}

func (s *safeTunnels) describe(udp uint16) string {
	if why := s.get(udp); why.reason != nil {
		return offloadsOff + why.reason.Error()
	}
	return offloadsInUse
}

// set notes how a tunnel stands.
func (s *safeTunnels) set(udp uint16, why safety) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = map[uint16]safety{}
	}
	s.why[udp] = why
}

// setOffloads turns the offloads of a tunnel off for a reason, or on if there is none. They stay off until its device is
// removed.
func (d *Datapath) setOffloads(udp uint16, why safety) error {
	d.safe.setting.Lock()
	defer d.safe.setting.Unlock()
	if err := d.devices.setOffloads(tunnelName(udp), why.reason == nil); err != nil {
		return err
	}
	d.safe.set(udp, why)
	d.log.Warn("fastdp: checksum and segmentation offloads are "+d.safe.describe(udp), "device", tunnelName(udp))
	return nil
}

// keepSafe has the offloads of a tunnel stay off, also if its device is another one by now, and notes if they were off before.
func (d *Datapath) keepSafe(udp uint16) {
	d.safe.setting.Lock()
	defer d.safe.setting.Unlock()
	device := tunnelName(udp)
	on, err := d.devices.offloads(device)
	switch wantOff := d.safe.get(udp).reason != nil; {
	case err == nil && !on && !wantOff:
		d.safe.set(udp, safety{reason: errFoundOff})
	case err == nil && on && wantOff:
		if err = d.devices.setOffloads(device, false); err == nil {
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

// judge draws the conclusion from a self-test. If most links say that they fail, it is our interfaces: the tunnel goes on
// without offloads, and is tested once more. If that does not help, or other links are well, it is the way to this peer, or
// the peer itself: offloads are as they were, and the link is on hold.
func (l *link) judge(failure error) {
	d, now := l.d, l.d.safe.get(l.udp)
	if failure == nil {
		if d.stats.tests.Add(1); now.trial == l {
			d.safe.set(l.udp, safety{reason: now.reason}) // it helps
		}
		return
	}
	d.stats.testsFailed.Add(1)
	var err error
	switch {
	case now.reason == nil && !l.retried && d.mostFail(l.udp):
		l.retried = true
		if err = d.setOffloads(l.udp, safety{failure, l}); err == nil {
			d.testAgain(l.udp)
			return
		}
		err = fmt.Errorf("%w, and offloads cannot be turned off: %w", failure, err)
	case now.trial == l:
		err = d.setOffloads(l.udp, safety{})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.life.common()
	s.test.result = cmp.Or(err, failure)
	s.blame(s.test.result)
}

// endTrial turns offloads on again if it was for this link's sake that they are off, and it ends before it is known whether
// it helps.
func (l *link) endTrial() {
	if l.d.safe.get(l.udp).trial == l {
		if err := l.d.setOffloads(l.udp, safety{}); err != nil {
			l.log.Warn("fastdp: offloads cannot be turned on again", "err", err)
		}
	}
}

// mostFail reports whether the last self-tests of most links of a tunnel port have failed.
func (d *Datapath) mostFail(udp uint16) bool {
	tested, failed := 0, 0
	for _, l := range d.table.links.all() {
		if l.udp == udp {
			l.mu.Lock()
			t := &l.life.common().test
			tested, failed = tested+int(bit(t.tested())), failed+int(bit(t.failed()))
			l.mu.Unlock()
		}
	}
	return 2*failed > tested
}

// testAgain begins new rounds for the links of a tunnel port that have failed, or are at it.
func (d *Datapath) testAgain(udp uint16) {
	for _, l := range d.table.links.all() {
		if l.udp != udp {
			continue
		}
		l.mu.Lock()
		if t := &l.life.common().test; t.under && (t.failed() || t.tries > 0) {
			t.done = false
			t.begin(time.Now())
		}
		l.mu.Unlock()
		l.wake()
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

package fastdp

import (
	"errors"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

const (
	retryInterval = 100 * time.Millisecond // of frames that cannot be sent yet

	// The first wait after a protection failed, and the longest: it doubles each time, unless the protection did its work for as
	// long as the longest.
	protectWait    = time.Second
	maxProtectWait = time.Minute
)

// run does what the life asks for, until the link is closed. A protection that fails is made anew after a while.
func (l *link) run() {
	l.d.changed(overlay.Change{}) // frames that arrive are welcome from now on
	defer l.endTrial()
	for wait := protectWait; ; wait = min(2*wait, maxProtectWait) {
		began := time.Now()
		l.protect()
		l.live()
		l.unprotect()
		if l.stopped() {
			return
		}
		if time.Since(began) >= maxProtectWait {
			wait = protectWait
		}
		l.pause(wait)
	}
}

// protect has the tunnel protected. It may be used when that has been reported to be ready.
func (l *link) protect() {
	p := l.d.cfg.Protector
	if p == nil {
		l.ready(nil)
		return
	}
	l.mu.Lock()
	t := Tunnel{
		Self: l.params.Self, Remote: l.params.Remote, Local: l.outer.src, RemoteAddr: l.outer.dst, Port: l.udp,
		Outbound: l.params.Outbound, ConnUID: l.params.ConnUID, Key: l.params.Key, Rekeys: l.name == Name2, Again: l.again,
	}
	l.again = true
	l.mu.Unlock()
	var protection Protection
	var err error
	if t.Key == nil {
		protection, err = p.Allow(t)
	} else {
		send := func(payload []byte) error { return l.params.SendControl(tagInitSARemote, payload) }
		protection, err = p.Protect(t, send, l.ready)
	}
	if err != nil {
		l.ready(err)
		return
	}
	l.mu.Lock()
	l.protection = protection
	l.mu.Unlock()
	if t.Key == nil {
		l.ready(nil)
	}
}

// unprotect ends the protection, if there is one.
func (l *link) unprotect() {
	l.mu.Lock()
	protection := l.protection
	l.protection = nil
	l.mu.Unlock()
	if protection != nil {
		protection.Close()
	}
}

// ready takes the word of the protection.
func (l *link) ready(err error) {
	l.mu.Lock()
	switch {
	case l.closed:
	case errors.Is(err, ErrNewConnection):
		l.open.Store(false)
		l.life.common().fail(err)
	case err != nil:
		l.open.Store(false)
		l.lost = err
	case l.lost == nil && !l.open.Swap(true):
		l.life.ready(time.Now())
	}
	l.mu.Unlock()
	l.wake()
}

// pause puts the link on hold until there is to be another protection.
func (l *link) pause(wait time.Duration) {
	l.mu.Lock()
	l.log.Warn("fastdp: the tunnel is not protected", "err", l.lost, "next", wait)
	l.retry = time.Now().Add(wait)
	l.life.pause(l.lost)
	l.mu.Unlock()
	l.step()
	select {
	case <-l.stop:
	case <-time.After(wait):
	}
	l.mu.Lock()
	l.lost, l.retry = nil, time.Time{}
	l.mu.Unlock()
}

func (l *link) wake() {
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}

// live waits for what is due, and for what comes in, until the link is closed or its protection has failed.
func (l *link) live() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !l.stopped() && !l.isLost() {
		if next := l.step(); !next.IsZero() {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
		select {
		case <-l.stop:
		case payload := <-l.secrets:
			if l.protection != nil { // it has not failed for good
				l.protection.Control(payload)
			}
		case <-l.wakeup:
		case <-timer.C:
		}
	}
}

func (l *link) isLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost != nil
}

// step does what is due and returns when that is again; the zero time is never.
func (l *link) step() time.Time {
	var actions []action
	for {
		now := time.Now()
		l.mu.Lock()
		l.life.tick(now)
		actions = l.life.common().take(actions)
		next := l.life.next()
		l.mu.Unlock()
		for _, a := range actions {
			if l.stopped() {
				return time.Time{}
			}
			l.do(a)
		}
		if len(actions) > 0 {
			continue // they may have led to more
		}
		if l.unsent == nil || l.sendOwn(l.unsent) {
			l.unsent = nil
			return next
		}
		return now.Add(retryInterval)
	}
}

func (l *link) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// do carries out an action of the life. A frame that cannot be sent yet is kept, unless there is a younger one.
func (l *link) do(a action) {
	switch a.kind {
	case doSend:
		l.unsent = nil
		if !l.sendOwn(a.frame) {
			l.unsent = a.frame
		}
	case doControl:
		if err := l.params.SendControl(a.tag, a.payload); err != nil {
			l.log.Debug("fastdp: control message not sent", "tag", a.tag, "err", err)
			l.mu.Lock()
			l.life.common().acked = false
			l.mu.Unlock()
		}
	case doReport:
		l.params.Report(a.event)
	case doTest:
		l.sendTest(a)
	case doJudge:
		l.judge(a.err)
	}
}

// sendOwn sends a frame of the link's life. It returns false if the peers have no short ids yet, or the datapath no port.
func (l *link) sendOwn(frame []byte) bool {
	if !l.open.Load() {
		return true // the protection has failed since: it is lost
	}
	act, ok := l.action(l.params.Self, l.params.Remote)
	if !ok {
		return false
	}
	var b odp.Batch
	if err := l.d.execute(&b, []execution{{packet: frame, actions: act}}); err != nil {
		l.log.Debug("fastdp: heartbeat not sent", "err", err)
	}
	return true
}

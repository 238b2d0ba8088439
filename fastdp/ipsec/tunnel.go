package ipsec

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/overweave/overweave/fastdp"
)

const (
	spiTries   = 8
	maxNonces  = 4096        // announcements that one connection may bring
	renewGap   = time.Second // between announcements that the other end asks for
	repairGap  = time.Minute // between keys made anew because others deleted one, with 2.8
	maxPending = 8           // payloads that wait to be sent
)

// Protection is the protection of one tunnel. It is safe for concurrent use.
type Protection struct {
	g      *Protector
	t      fastdp.Tunnel
	send   func([]byte) error
	report func(error)

	calls sync.Mutex // held during calls of send and report; taken before g.mu

	// Guarded by g.mu.
	closed bool
	pair   *pair
	in     *association // what the other end was told last to use
	old    *association // what it used before
	out    *association
	made   time.Time // when in was made
	asked  time.Time // when the other end was asked for a new key
	rekeys uint64
	nonces map[[nonceSize]byte]bool // of the other end: a key made twice would be used twice
	heard  bool                     // the other end has announced a key
	ready  bool                     // was reported
	err    error                    // why the tunnel is of no more use
	todo   []func() error           // calls that are due
}

var _ fastdp.Protection = (*Protection)(nil)

// Protect implements [fastdp.Protector]. The port is guarded first if it is not.
func (g *Protector) Protect(t fastdp.Tunnel, send func(payload []byte) error, report func(error)) (fastdp.Protection, error) {
	if t.Key == nil || send == nil || report == nil {
		return nil, errors.New("ipsec: protect: no key, or nothing to call")
	}
	p := &Protection{g: g, t: t, send: send, report: report, nonces: map[[nonceSize]byte]bool{}}
	if err := p.open(); err != nil {
		return nil, fmt.Errorf("ipsec: protect tunnel to %s: %w", t.RemoteAddr, err)
	}
	if err := p.flush(); err != nil {
		p.close(0)
		return nil, fmt.Errorf("ipsec: protect tunnel to %s: %w", t.RemoteAddr, err)
	}
	return p, nil
}

// Allow implements [fastdp.Protector]. Between the same addresses and ports an encrypted tunnel goes first: while one is open
// the clear one carries nothing.
func (g *Protector) Allow(t fastdp.Tunnel) (fastdp.Protection, error) {
	if t.Key != nil {
		return nil, errors.New("ipsec: allow: the tunnel has a key")
	}
	p := &Protection{g: g, t: t}
	if err := p.open(); err != nil {
		return nil, fmt.Errorf("ipsec: allow tunnel to %s: %w", t.RemoteAddr, err)
	}
	return p, nil
}

// open puts what the tunnel needs into the kernel.
func (p *Protection) open() error {
	local, remote := p.t.Local.Unmap(), p.t.RemoteAddr.Unmap()
	if !local.IsValid() || !remote.IsValid() || local.Is4() != remote.Is4() || local.Zone() != "" || remote.Zone() != "" || local == remote {
		return fmt.Errorf("addresses %s and %s make no tunnel", local, remote)
	}
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.kick()
	if err := g.guard(p.t.Port); err != nil {
		return err
	}
	p.pair = g.pair(tuple{local, remote, p.t.Port})
	if p.t.Key != nil {
		if err := p.announce(p.firstFlags(), time.Now()); err != nil {
			return err
		}
	}
	p.pair.open = append(p.pair.open, p)
	if err := g.apply(p.pair); err != nil {
		p.leave(0, time.Now())
		return err
	}
	return nil
}

// firstFlags are those of the first announcement. It asks for the other end's key if that was announced to a Protection before.
func (p *Protection) firstFlags() byte {
	if p.t.Again && p.t.Rekeys {
		return flagRenew
	}
	return 0
}

// announce makes a new inbound association and has the other end told of it.
func (p *Protection) announce(flags byte, now time.Time) error {
	if len(p.todo) >= maxPending {
		return errors.New("announcements wait for each other")
	}
	a := announcement{flags: flags}
	_, _ = rand.Read(a.nonce[:]) // never fails
	key, err := deriveKey(p.t.Key, a.nonce, p.t.Self)
	if err != nil {
		return err
	}
	in := &association{Association: Association{Selector: p.pair.selector(In), ReqID: p.pair.reqID, Key: key}}
	if err := p.addInbound(in); err != nil {
		return err
	}
	a.spi = in.SPI
	p.in, p.made = in, now
	payload := a.append(nil)
	p.later(func() error { return p.send(payload) })
	return nil
}

// addInbound finds an SPI that is free. Keys are random too, so that it does not matter that they do not change.
func (p *Protection) addInbound(in *association) error {
	for range spiTries {
		var b [4]byte
		_, _ = rand.Read(b[:])
		in.SPI = binary.BigEndian.Uint32(b[:])
		if in.SPI < minSPI {
			continue
		}
		if err := p.g.add(in); !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return errors.New("no free SPI")
}

// Control takes an announcement of the other end. What is wrong with it is reported, and the tunnel is of no more use then.
func (p *Protection) Control(payload []byte) {
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.closed || p.err != nil || p.t.Key == nil {
		return // 2.8 sends none without a key, and whoever does need not be believed
	}
	defer g.kick()
	p.heard = true
	if err := p.control(payload, time.Now()); err != nil {
		p.fail(fmt.Errorf("ipsec: key for the tunnel to %s: %w", p.t.RemoteAddr, err))
	}
}

func (p *Protection) control(payload []byte, now time.Time) error {
	a, err := parseAnnouncement(payload)
	if err != nil {
		return err
	}
	if p.nonces[a.nonce] || len(p.nonces) >= maxNonces {
		return fmt.Errorf("%w: repeated nonce, or too many of them", errMessage)
	}
	p.nonces[a.nonce] = true
	key, err := deriveKey(p.t.Key, a.nonce, p.t.Remote)
	if err != nil {
		return err
	}
	out := &association{Association: Association{Selector: p.pair.selector(Out), SPI: a.spi, ReqID: p.pair.reqID, Key: key}}
	if err := p.g.add(out); err != nil {
		return err
	}
	before := p.out
	p.out = out
	if before != nil {
		p.rekeys++
	}
	if err := p.g.apply(p.pair); err != nil {
		return err
	}
	if before != nil {
		p.g.warn("change of keys", p.g.remove(before))
	}
	if !p.ready {
		p.ready = true
		p.later(func() error { p.report(nil); return nil })
	}
	if a.flags&flagRenew != 0 && p.t.Rekeys && now.Sub(p.made) >= renewGap {
		return p.renew(0, now)
	}
	return nil
}

// renew changes the key of what is sent to us. The one before does until the other end uses the new one.
func (p *Protection) renew(flags byte, now time.Time) error {
	before := p.in
	if err := p.announce(flags, now); err != nil {
		return err
	}
	p.rekeys++
	if p.old != nil { // the other end took that one back by asking for more
		retire(p.old, now.Add(p.g.cfg.Grace))
	}
	p.old = before
	return nil
}

// fail has the tunnel reported as of no more use. Nothing is sent in the clear: only Close changes the policies.
func (p *Protection) fail(err error) {
	if p.err != nil || p.report == nil {
		return
	}
	if p.heard && !p.t.Rekeys && !errors.Is(err, fastdp.ErrNewConnection) {
		err = fmt.Errorf("%w: %w", err, fastdp.ErrNewConnection) // 2.8 does not say it again
	}
	p.err = err
	p.later(func() error { p.report(err); return nil })
}

// later has Run make a call.
func (p *Protection) later(call func() error) {
	if len(p.todo) == 0 {
		p.g.due = append(p.g.due, p)
	}
	p.todo = append(p.todo, call)
}

// deliver makes the calls that are due. A payload that cannot be sent is a failure, which is reported at once.
func (p *Protection) deliver() {
	for {
		err := p.flush()
		if err == nil {
			return
		}
		p.g.mu.Lock()
		p.fail(err)
		p.g.mu.Unlock()
	}
}

// flush makes the calls that are due, up to the first error.
func (p *Protection) flush() error {
	p.calls.Lock()
	defer p.calls.Unlock()
	p.g.mu.Lock()
	todo := p.todo
	p.todo = nil
	if p.closed {
		todo = nil
	}
	p.g.mu.Unlock()
	for _, call := range todo {
		if err := call(); err != nil {
			return fmt.Errorf("send key: %w", err)
		}
	}
	return nil
}

// Close implements [fastdp.Protection]. What the tunnel has in the kernel is kept for the hold, for a younger tunnel to take
// its place without a gap.
func (p *Protection) Close() { p.close(p.g.cfg.Hold) }

func (p *Protection) close(hold time.Duration) {
	p.g.mu.Lock()
	if !p.closed {
		p.leave(hold, time.Now())
		p.g.kick()
	}
	p.g.mu.Unlock()
	p.calls.Lock() // a call that runs ends first
	defer p.calls.Unlock()
}

// leave takes the tunnel from its pair.
func (p *Protection) leave(hold time.Duration, now time.Time) {
	p.closed, p.todo = true, nil
	pair, g := p.pair, p.g
	was := pair.action()
	pair.open = slices.DeleteFunc(pair.open, func(o *Protection) bool { return o == p })
	end := now.Add(hold)
	for _, a := range []*association{p.in, p.old, p.out} {
		retire(a, end)
	}
	if len(pair.open) == 0 {
		pair.held, pair.until = was, end
	} else {
		g.warn("end of a tunnel", g.apply(pair))
	}
	g.expire(now)
}

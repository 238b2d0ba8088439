package sleeve

import (
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	tooBigInterval = 10 * time.Millisecond // of answers to senders, once a burst is used up
	tooBigBurst    = 50
)

// life is what the links of both overlays have in common: what they are made of, who is inside, the goroutine that does
// what the link's machine asks for, and the end of it.
type life struct {
	// constant
	params overlay.Params
	conn   Conn
	local  netip.Addr // source of datagrams; zero: as routed
	log    *slog.Logger

	traffic

	inside  gate          // calls of Send and of the overlay's readers
	stop    chan struct{} // closed by Close
	wakeup  chan struct{} // the machine has changed
	running sync.WaitGroup

	mu     sync.Mutex // guards the link's machine as well; nothing is called out with it held
	closed bool

	answerMu sync.Mutex
	answers  limiter // guarded by answerMu
}

// init readies the zero value for a link.
func (l *life) init(o *Overlay, p overlay.Params, name string) {
	p.RemoteAddr = netip.AddrPortFrom(numbered(p.RemoteAddr.Addr()), p.RemoteAddr.Port())
	l.params, l.conn = p, o.conn
	l.log = o.log.With("peer", p.Remote.String(), "overlay", name)
	if o.conn.LocalAddr().Addr().IsUnspecified() {
		l.local = numbered(p.Local.Addr())
	}
	l.inside, l.stop, l.wakeup = newGate(), make(chan struct{}), make(chan struct{}, 1)
	l.answers = limiter{interval: tooBigInterval, burst: tooBigBurst}
}

// numbered returns an address as datagrams from there have it: without the form of IPv4 in IPv6, and with the number of an
// interface for a zone.
func numbered(addr netip.Addr) netip.Addr {
	if i, err := net.InterfaceByName(addr.Zone()); err == nil {
		return addr.WithZone(strconv.Itoa(i.Index))
	}
	return addr.Unmap()
}

// wake has the machine looked at.
func (l *life) wake() {
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}

func (l *life) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// live runs the machine of a link until that is closed or has failed. turn takes the actions that the machine has collected,
// which goes on collecting in buf, and tells when the next turn is due, never if that is zero. do carries out an action.
func live[A any](l *life, turn func(now time.Time, buf []A) (actions []A, due time.Time), do func(A)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var actions []A
	var due time.Time
	for {
		l.mu.Lock()
		actions, due = turn(time.Now(), actions)
		l.mu.Unlock()
		for _, a := range actions {
			if l.stopped() {
				return
			}
			do(a)
		}
		if len(actions) > 0 {
			continue // they may have led to more
		}
		if due.IsZero() {
			return
		}
		timer.Reset(time.Until(due))
		select {
		case <-l.stop:
			return
		case <-l.wakeup:
		case <-timer.C:
		}
	}
}

// mayAnswer limits how often senders are told that their frames are too big.
func (l *life) mayAnswer(now time.Time) bool {
	l.answerMu.Lock()
	defer l.answerMu.Unlock()
	return l.answers.allow(now)
}

// offloads tells which offloads of the system the socket uses, nil if it has none.
func (l *life) offloads() map[string]string { return offloadsOf(l.conn) }

func offloadsOf(c Conn) map[string]string {
	if s, ok := c.(interface{ Offloads() map[string]string }); ok {
		return s.Offloads()
	}
	return nil
}

// end closes the link, once unregister has taken it out of its overlay, and waits until nothing of it runs any more.
func (l *life) end(unregister func()) {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if first {
		unregister()
		close(l.stop)
	}
	l.inside.close()
	l.running.Wait()
}

package fastdp

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

const pendingControl = 8 // messages for the protection that may wait; more are dropped

// link is one end of a tunnel between two peers. It implements [overlay.DatapathLink].
type link struct {
	// constant
	d      *Datapath
	name   string
	params overlay.Params
	outer  outer // of what we send
	udp    uint16
	log    *slog.Logger

	open     atomic.Bool // frames may be sent: it is confirmed, what it sends is protected, and it is not closed
	sent     counter
	received counter
	noRoute  atomic.Uint64 // frames that could not be addressed
	closedBy atomic.Uint64 // frames before it was open, or after Close
	refused  atomic.Uint64 // frames that the kernel did not take

	inside  sync.RWMutex  // held for reading by calls of Send; taken by Close to wait for them
	stop    chan struct{} // closed by Close
	wakeup  chan struct{} // the life has changed
	secrets chan []byte   // control messages for the protection
	running sync.WaitGroup
	unsent  []byte // the running goroutine's: a frame of the life that could not be sent yet
	retried bool   // the running goroutine's: offloads were turned off for its sake

	mu         sync.Mutex // guards what follows; nothing is called out with it held
	life       life
	protection Protection
	lost       error     // why the protection does not do; nil: it does, or there may be one yet
	again      bool      // it is not the first
	retry      time.Time // when there is to be another one; zero: now is no such time
	confirmed  bool
	closed     bool
}

// counter counts frames and bytes.
type counter struct{ frames, bytes atomic.Uint64 }

func (c *counter) add(frames, bytes uint64) {
	c.frames.Add(frames)
	c.bytes.Add(bytes)
}

func (c *counter) load() overlay.Counter {
	return overlay.Counter{Frames: c.frames.Load(), Bytes: c.bytes.Load()}
}

// init completes a link that has what is constant but the log.
func (l *link) init() {
	l.log = l.d.log.With("peer", l.params.Remote.String(), "overlay", l.name)
	l.stop, l.wakeup, l.secrets = make(chan struct{}), make(chan struct{}, 1), make(chan []byte, pendingControl)
	if l.name == Name2 {
		l.life = newProbeLife(l.params.ConnUID, l.d.cfg.MTU)
	} else {
		l.life = newHeartbeatLife(l.params.ConnUID, l.d.cfg.MTU)
	}
	l.life.common().remote = netip.AddrPortFrom(l.outer.dst, l.udp)
}

func (l *link) arrival() arrival { return arrival{outer: l.outer.reversed(), udp: l.udp} }

// Confirm implements [overlay.Link].
func (l *link) Confirm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.confirmed {
		return
	}
	l.confirmed = true
	l.d.table.links.add(l)
	l.running.Go(l.run)
}

// action returns what the kernel does to send a frame over the link.
func (l *link) action(src, dst peer.Name) ([]odp.Action, bool) {
	t := &l.d.table
	id, known := t.vniOf(src, dst)
	port, exists := t.ports.Load().tunnels[l.udp]
	return []odp.Action{setTunnel(id, l.outer), odp.Output(port)}, known && exists
}

// take gives the life a frame without addresses.
func (l *link) take(frame []byte) {
	l.mu.Lock()
	if !l.closed && l.open.Load() {
		l.life.frame(time.Now(), frame)
	}
	l.mu.Unlock()
	l.wake()
}

// Carries implements [overlay.DatapathLink].
func (l *link) Carries(src, dst peer.Name) bool {
	_, own := l.d.table.ownID()
	_, ok := l.d.table.vniOf(src, dst)
	return own && ok
}

// Send implements [overlay.Link]. It is for frames that came over another overlay; those of stations do not come here.
func (l *link) Send(frames []overlay.Frame) {
	l.inside.RLock()
	defer l.inside.RUnlock()
	if !l.open.Load() {
		l.closedBy.Add(uint64(len(frames)))
		return
	}
	out := make([]execution, 0, len(frames))
	for i := range frames {
		act, ok := l.action(frames[i].Src, frames[i].Dst)
		if !ok {
			l.noRoute.Add(1)
			continue
		}
		out = append(out, execution{packet: frames[i].Data, actions: act})
		l.sent.add(1, uint64(len(frames[i].Data)))
	}
	if len(out) == 0 {
		return
	}
	b := l.d.batches.Get().(*odp.Batch)
	if err := l.d.execute(b, out); err != nil {
		l.refused.Add(uint64(len(out)))
	}
	l.d.batches.Put(b)
}

// Control implements [overlay.Link].
func (l *link) Control(tag byte, payload []byte) {
	if tag == tagInitSARemote {
		if l.params.Key != nil && len(payload) <= maxSecret {
			select {
			case l.secrets <- append([]byte(nil), payload...):
			default:
				l.log.Debug("fastdp: too many messages for the encryption")
			}
		}
		return
	}
	l.mu.Lock()
	l.life.control(time.Now(), tag, payload)
	l.mu.Unlock()
	l.wake()
}

const maxSecret = 1024 // bytes of a control message for the protection

// Status implements [overlay.Link].
func (l *link) Status() overlay.LinkStatus {
	l.mu.Lock()
	s, protection := l.life.common(), l.protection
	st := overlay.LinkStatus{
		Overlay: l.name, Encrypted: l.params.Key != nil, Established: s.established, MTU: s.mtu, RTT: s.rtt,
		Remote: netip.AddrPortFrom(l.outer.dst, l.udp), Sent: l.sent.load(), Received: l.received.load(), Drops: map[string]uint64{},
	}
	if s.err != nil {
		st.Reason = s.err.Error()
	}
	st.Next = l.retry
	if s.onHold && !s.failed && st.Next.IsZero() {
		st.Next = l.life.next()
	}
	st.Offloads = map[string]string{offloadName: l.offloads(&s.test)}
	l.mu.Unlock()
	if protection != nil {
		p := protection.Status()
		st.Cipher = p.Cipher
		if st.Reason == "" {
			st.Reason = p.Reason
		}
	}
	if st.Reason == "" {
		st.Reason = l.d.problem()
	}
	for name, n := range map[string]uint64{"no_short_id": l.noRoute.Load(), "closed": l.closedBy.Load(), "refused": l.refused.Load()} {
		if n > 0 {
			st.Drops[name] = n
		}
	}
	return st
}

// Close implements [overlay.Link].
func (l *link) Close() {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.open.Store(false)
	l.mu.Unlock()
	if first {
		l.d.noteSecond(l.params.ConnUID, false)
		l.d.leaveTunnel(l.udp)
		l.d.table.links.remove(l)
		l.d.changed(overlay.Change{})
		close(l.stop)
	}
	l.inside.Lock() // waits for Send
	defer l.inside.Unlock()
	l.running.Wait()
}

// execution is a packet that the kernel is to run actions on.
type execution struct {
	packet  []byte
	actions []odp.Action
}

// execute has packets sent.
func (d *Datapath) execute(b *odp.Batch, list []execution) error {
	k := d.kernel.Load()
	if k == nil {
		return errNotRunning
	}
	b.Reset()
	for _, x := range list {
		b.Execute(k.dp, odp.Execute{Packet: x.packet, Actions: x.actions})
	}
	return k.conn.Run(context.Background(), b)
}

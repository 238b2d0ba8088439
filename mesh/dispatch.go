package mesh

import (
	"fmt"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// features returns what we say of ourselves on a link.
func (r *Router) features(l *link) features {
	r.topoMu.RLock()
	own := r.topo.own()
	r.topoMu.RUnlock()
	f := features{
		name: own.name, nickname: own.nickname, uid: own.uid, connID: uint64(peer.NewUID()),
		shortID: own.shortID, hasShortID: true, trusted: l.trusted, delta: !r.cfg.NoDeltas,
	}
	if r.cfg.Switch != nil {
		f.overlays = r.cfg.Switch.Offer()
	}
	if !r.cfg.NoDeltas {
		f.port = r.Addr().Port()
	}
	return f
}

// dispatch handles a message that came over a link. Its error ends the link; what an application does never is one.
func (r *Router) dispatch(l *link, tag byte, body []byte) error {
	switch tag {
	case tagHeartbeat:
		return nil
	case 1, 2, 3, overlay.ControlTag:
		if l.bundle != nil {
			l.bundle.Control(tag, body)
		}
		return nil
	case tagGossip, tagUnicast, tagBroadcast:
		m, err := parseMessage(tag, body)
		if err != nil {
			return err
		}
		return r.dispatchGossip(l, m)
	case tagDelta:
		if l.delta {
			return r.dispatchDelta(l, body)
		}
	}
	r.counter.unknownTags.Add(1)
	return nil
}

func (r *Router) dispatchGossip(l *link, m message) error {
	if string(m.channel) == topologyChannel && (m.tag != tagUnicast || m.dst == r.cfg.Name) {
		if m.tag == tagUnicast {
			return fmt.Errorf("%w: unicast on the topology channel", errMalformed)
		}
		r.counter.topology.noteReceived(len(m.payload))
		fresh, old, err := decodeUpdate(m.payload, r.known)
		if err == nil {
			r.merge(l, fresh, old)
		}
		return err
	}
	if m.tag == tagUnicast && m.dst != r.cfg.Name {
		r.relay(l, m)
		return nil
	}
	for _, c := range r.channels {
		if c.name == string(m.channel) {
			m.channel, m.payload = nil, slices.Clone(m.payload) // the message is the link's
			c.deliver(m)
			return nil
		}
	}
	r.surrogate(l, m)
	return nil
}

// relay passes a unicast on, unless that is where it came from, or there is no way or no room.
func (r *Router) relay(from *link, m message) {
	next := r.view.Load().linkTo(m.dst)
	if next == nil || next == from {
		r.counter.unrouted.Add(1)
		return
	}
	if next.out.urgentNow(encodeMessage(m.tag, string(m.channel), m.src, m.dst, m.payload)) == nil {
		next.kick()
	}
}

// surrogate passes on what came on a channel we do not serve.
func (r *Router) surrogate(from *link, m message) {
	v, now := r.view.Load(), time.Now()
	var hops []peer.Name
	src := m.src
	switch {
	case m.tag == tagBroadcast && r.surrogates.admit(m.channel, now):
		hops = v.graph.spread(m.src)
	case m.tag == tagGossip && r.surrogates.fresh(m.channel, m.payload, now):
		hops, src = v.graph.choose(m.src, randomInt), r.cfg.Name
	}
	if len(hops) == 0 {
		return
	}
	msg := encodeMessage(m.tag, string(m.channel), src, 0, m.payload)
	for _, hop := range hops {
		if l := v.links[hop]; l != nil && l != from {
			l.out.passOn(msg)
			l.kick()
		}
	}
}

// known returns our entry of another peer. What is said of ourselves is for the engine to judge.
func (r *Router) known(name peer.Name) *entry {
	if name == r.cfg.Name {
		return nil
	}
	r.topoMu.RLock()
	defer r.topoMu.RUnlock()
	return r.topo.entry(name)
}

// dispatchDelta handles a message of delta.go.
func (r *Router) dispatchDelta(l *link, body []byte) error {
	if len(body) == 0 {
		return fmt.Errorf("%w: empty delta", errMalformed)
	}
	kind, body := body[0], body[1:]
	switch kind {
	case deltaEntries:
		r.counter.topology.noteReceived(len(body))
		fresh, old, err := parseEntries(body, r.known)
		if err == nil {
			r.merge(l, fresh, old)
		}
		return err
	case deltaDigest:
		r.topoMu.RLock()
		same, err := r.topo.sameDigest(body)
		r.topoMu.RUnlock()
		if err == nil && !same {
			r.post(func(e *engine) { e.sendVersions(l, time.Now()) })
		}
		return err
	case deltaVersions:
		return r.answerVersions(l, body)
	case deltaWant:
		names, err := parseNames(body)
		names = slices.DeleteFunc(names, func(n peer.Name) bool { return n != r.cfg.Name && r.known(n) == nil })
		if len(names) > 0 {
			l.out.addTopology(names)
			r.post(func(e *engine) { e.flushSoon() })
		}
		return err
	case deltaEager:
		r.post(func(*engine) { l.eager, l.wasted = true, 0 })
	case deltaLazy:
		r.post(func(e *engine) { e.becomeLazy(l) })
	case deltaPing:
		if len(body) <= maxPing && l.out.urgentNow(append([]byte{tagDelta, deltaPong}, body...)) == nil {
			l.kick()
		}
	case deltaPong:
		l.probe.pong(body, time.Now())
	case deltaGoodbye:
		return fmt.Errorf("%w of the other end", ErrLimit)
	}
	return nil
}

// answerVersions sends what the other end lacks, and asks for what we lack.
func (r *Router) answerVersions(l *link, body []byte) error {
	stamps, err := parseStamps(body)
	if err != nil {
		return err
	}
	r.topoMu.RLock()
	lacking, newer := r.topo.compare(stamps)
	r.topoMu.RUnlock()
	if len(lacking) > 0 {
		l.out.addTopology(lacking)
		r.post(func(e *engine) { e.flushSoon() })
	}
	if len(newer) > 0 {
		_ = l.out.urgentNow(wantMessage(newer)) // if it gets lost, digests will differ again
		l.kick()
	}
	return nil
}

// merge hands an update to the engine.
func (r *Router) merge(l *link, fresh []*entry, old []stamp) {
	if len(fresh)+len(old) > 0 {
		r.post(func(e *engine) { e.merge(l, fresh, old) })
	}
}

// appendTopology appends the frames of topology that waits at a link, in the form that the link takes.
func (r *Router) appendTopology(buf []byte, l *link, w work) ([]byte, error) {
	own, entries := r.entriesOf(w)
	if len(entries) == 0 {
		return buf, nil
	}
	if l.delta {
		return r.appendDeltas(buf, l, entries)
	}
	for _, msg := range encodeUpdates(own, entries) {
		var err error
		if buf, err = l.sess.out.append(buf, msg); err != nil {
			return buf, err
		}
		r.counter.topology.noteSent(len(msg))
	}
	return buf, nil
}

// entriesOf returns our entry, and those that some work asks for.
func (r *Router) entriesOf(w work) (own *entry, entries []*entry) {
	r.topoMu.RLock()
	defer r.topoMu.RUnlock()
	if w.all {
		return r.topo.own(), slices.Clone(r.topo.entries)
	}
	entries = make([]*entry, 0, len(w.topology))
	for _, n := range w.topology {
		if e := r.topo.entry(n); e != nil {
			entries = append(entries, e)
		}
	}
	return r.topo.own(), entries
}

// maxUpdate is where a topology message is cut, in bytes: one entry may be longer. The receiver merges the parts.
const maxUpdate = 4 << 20

// appendDeltas appends the frames of deltaEntries.
func (r *Router) appendDeltas(buf []byte, l *link, entries []*entry) (out []byte, err error) {
	scratch := r.buffers.Get().(*[]byte)
	defer func() { keepBuffer(&r.buffers, scratch) }()
	for len(entries) > 0 && err == nil {
		*scratch, entries = appendDelta((*scratch)[:0], entries)
		r.counter.topology.noteSent(len(*scratch))
		buf, err = l.sess.out.append(buf, *scratch)
	}
	return buf, err
}

// appendDelta appends one deltaEntries of entries, and returns those that found no room in it.
func appendDelta(b []byte, entries []*entry) (msg []byte, rest []*entry) {
	n, size := fitting(entries, func(e *entry) int { return maxEntryHead + len(e.nickname) + len(e.conns) })
	b = append(slices.Grow(b, 2+size), tagDelta, deltaEntries)
	for _, e := range entries[:n] {
		b = appendEntry(b, e)
	}
	return b, entries[n:]
}

// encodeUpdates returns messages of the old wire that hold the entries.
func encodeUpdates(own *entry, entries []*entry) (messages [][]byte) {
	for len(entries) > 0 {
		n, _ := fitting(entries, func(e *entry) int { return len(e.encoded()) })
		update := encodeUpdate(entries[:n])
		messages = append(messages, encodeMessage(tagGossip, topologyChannel, own.name, 0, update))
		entries = entries[n:]
	}
	return messages
}

// fitting returns how many of the first entries, one at least, fit into one message, and their size in bytes.
func fitting(entries []*entry, sizeOf func(*entry) int) (n, size int) {
	for n < len(entries) {
		more := sizeOf(entries[n])
		if n > 0 && size+more > maxUpdate {
			break
		}
		n, size = n+1, size+more
	}
	return n, size
}

package overlay

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/overweave/overweave/mesh/peer"
)

const (
	// FeatureKey is the handshake's key for the names of the overlays a peer has, preferred first, a space between.
	FeatureKey = "Overlays"
	// ControlTag is the mesh's message tag for the control messages of a Bundle.
	ControlTag = 7

	// legacyOverlay is what a peer speaks that sends no FeatureKey; its control tags are then bare mesh tags.
	legacyOverlay = "sleeve"
	maxCommon     = 256 // the index has one byte
)

// ErrNoCommonOverlay is wrapped by errors of [Switch.Prepare]: the peers have no overlay in common. It is not if they have
// one and that cannot be used.
var ErrNoCommonOverlay = errors.New("no overlays in common with peer")

// Bundle holds the links of one mesh connection, one for each overlay that both ends have, and sends over the best that
// works. It is safe for concurrent use.
//
// The best is the first in order of preference that is established and neither failed nor on hold; if none is, the first
// that is neither failed nor on hold; if there is none either, the connection fails.
type Bundle struct {
	sw     *Switch
	remote peer.Name
	report func(Event)
	best   atomic.Pointer[member] // nil: nothing to send over

	reporting sync.Mutex     // keeps calls of report in order; taken before mu
	failing   sync.WaitGroup // closes failed links; added to with mu held and not closed

	mu          sync.Mutex // taken before the switch's
	members     []*member  // by index; what the index in control messages counts
	legacy      bool       // control messages without index
	established bool
	failed      bool
	closed      bool
}

// member is the link of one overlay. Its flags are guarded by the bundle's mu.
type member struct {
	name        string
	index       int
	link        Link          // nil if it could not be prepared
	segmented   SegmentedLink // nil if it takes no super-frames
	datapath    DatapathLink  // nil if it is not one
	established bool
	onHold      bool
	failed      bool
	reason      error // of the last OnHold or Failed
}

// commonOverlays returns the names that both lists hold, in the order of the side that dialled.
func commonOverlays(ours, theirs []string, outbound bool) []string {
	order, other := ours, theirs
	if !outbound {
		order, other = theirs, ours
	}
	var common []string
	for _, name := range order {
		if slices.Contains(other, name) && !slices.Contains(common, name) && len(common) < maxCommon {
			common = append(common, name)
		}
	}
	return common
}

// prepare fills the bundle with links for the overlays it can use.
func (b *Bundle) prepare(p Params, overlays map[string]Overlay, ours []string, send func(tag byte, payload []byte) error) error {
	common := []string{legacyOverlay}
	theirs, ok := p.Features[FeatureKey]
	b.legacy = !ok
	if ok {
		common = commonOverlays(ours, strings.Fields(theirs), p.Outbound)
	}
	if !slices.ContainsFunc(common, func(name string) bool { return overlays[name] != nil }) {
		return ErrNoCommonOverlay
	}
	for i, name := range common {
		m := &member{name: name, index: i}
		b.members = append(b.members, m)
		if err := b.prepareMember(m, i, p, overlays[name], send); err != nil {
			m.failed, m.reason = true, err
		}
	}
	best := b.choose()
	if best == nil {
		return fmt.Errorf("no common overlay usable: %w", b.reasons())
	}
	b.best.Store(best)
	return nil
}

func (b *Bundle) prepareMember(m *member, index int, p Params, o Overlay, send func(byte, []byte) error) error {
	if o == nil {
		return errors.New("not offered here")
	}
	p.SendControl = func(tag byte, payload []byte) error {
		if b.legacy {
			return send(tag, payload)
		}
		return send(ControlTag, append([]byte{byte(index), tag}, payload...))
	}
	p.Report = func(e Event) { b.onEvent(m, e) }
	p.Receive = b.sw.receive
	link, err := o.Prepare(p)
	if err != nil {
		return err
	}
	m.link = link
	m.segmented, _ = link.(SegmentedLink)
	m.datapath, _ = link.(DatapathLink)
	return nil
}

// Confirm puts the bundle to use: frames for its remote go to it, and its links begin to send. After Close it does nothing.
func (b *Bundle) Confirm() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	b.sw.forwarder.links.set(b.remote, b)
	b.mu.Unlock()
	b.sw.forwarder.linksChanged()
	for _, m := range b.members {
		if m.link != nil {
			m.link.Confirm()
		}
	}
}

// Control takes a control message: the tag and payload of a mesh message with tag 1, 2, 3 or ControlTag. It drops what
// makes no sense.
func (b *Bundle) Control(tag byte, payload []byte) {
	index := 0
	if !b.legacy {
		if tag != ControlTag || len(payload) < 2 {
			return
		}
		index, tag, payload = int(payload[0]), payload[1], payload[2:]
	} else if tag == ControlTag {
		return
	}
	if link := b.live(index); link != nil {
		link.Control(tag, payload)
	}
}

func (b *Bundle) live(index int) Link {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || index >= len(b.members) || b.members[index].failed {
		return nil
	}
	return b.members[index].link
}

// pick returns the member for frames from src to dst: the best, or, if that is a datapath which cannot carry them, the next
// one after it that can, on hold or not. Nil if there is none.
func (b *Bundle) pick(src, dst peer.Name) *member {
	best := b.best.Load()
	if best == nil || best.carries(src, dst) {
		return best
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.members[best.index+1:] {
		if m.link != nil && !m.failed && m.carries(src, dst) {
			return m
		}
	}
	return nil
}

func (m *member) carries(src, dst peer.Name) bool {
	return m.datapath == nil || m.datapath.Carries(src, dst)
}

// send sends frames over the best link; false if there is none. Of frames captured here that are flooded, a datapath has sent
// its part. One for a single peer it has given to the port because it did not carry it then: if it does now, it has not yet.
func (b *Bundle) send(frames []Frame, captured bool) bool {
	m := b.best.Load()
	if m == nil {
		return false
	}
	if m.datapath == nil {
		m.send(frames)
		return true
	}
	ok := true
	for i := range frames {
		m := b.pick(frames[i].Src, frames[i].Dst)
		switch {
		case m == nil:
			ok = false
		case m.datapath == nil || !captured || !frames[i].Flooded:
			m.send(frames[i : i+1])
		}
	}
	return ok
}

func (m *member) send(frames []Frame) {
	if !anySuper(frames) || m.segmented != nil && m.segmented.TakesSegments() {
		m.link.Send(frames)
		return
	}
	c := cutters.Get().(*cutter)
	c.cut(frames, m.link.Send)
	cutters.Put(c)
}

// onEvent tells the mesh what it needs to know of an event: the first link that is established, and that none is left.
func (b *Bundle) onEvent(m *member, e Event) {
	b.reporting.Lock()
	defer b.reporting.Unlock()
	before := b.best.Load()
	first, ended := b.note(m, e)
	if b.best.Load() != before {
		b.sw.forwarder.linksChanged()
	}
	if first {
		b.report(Event{Kind: Established})
	}
	if ended {
		b.report(Event{Kind: Failed, Err: fmt.Errorf("no working overlay to %s: %w", b.remote, b.reasons())})
	}
}

// note notes what became of a link and chooses anew. first is true for the first link that is established, ended if no link
// is left to send over.
func (b *Bundle) note(m *member, e Event) (first, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.failed || m.failed {
		return false, false
	}
	switch e.Kind {
	case Established:
		m.established = true
		first, b.established = !b.established, true
	case OnHold:
		m.onHold, m.reason = true, e.Err
	case Healthy:
		m.onHold, m.reason = false, nil
	case Failed:
		m.failed, m.reason = true, e.Err
		b.failing.Go(m.link.Close) // not from within its own report
	}
	best := b.choose()
	b.best.Store(best)
	b.failed = best == nil
	return first, b.failed
}

// choose returns the member to send over, nil if there is none. The caller holds mu, or nobody else has the bundle yet.
func (b *Bundle) choose() *member {
	var fallback *member
	for _, m := range b.members {
		if m.failed || m.onHold {
			continue
		}
		if m.established {
			return m
		}
		if fallback == nil {
			fallback = m
		}
	}
	return fallback
}

// reasons says why members are not used, in one line.
func (b *Bundle) reasons() (all error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.members {
		if m.reason == nil {
			continue
		}
		err := fmt.Errorf("%s: %w", m.name, m.reason)
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// Status describes the link in use, the zero value if there is none.
func (b *Bundle) Status() LinkStatus {
	m := b.best.Load()
	if m == nil {
		return LinkStatus{}
	}
	return m.link.Status()
}

// Statuses describes the links of all common overlays, in order of preference.
func (b *Bundle) Statuses() []LinkStatus {
	b.mu.Lock()
	members := slices.Clone(b.members)
	b.mu.Unlock()
	var out []LinkStatus
	for _, m := range members {
		if m.link == nil {
			out = append(out, LinkStatus{Overlay: m.name, Reason: m.reason.Error()})
			continue
		}
		out = append(out, m.link.Status())
	}
	return out
}

// Close takes the bundle out of use and closes its links, and returns when nothing of them runs any more. It is idempotent.
// It may not be called from within report, which waits for it.
func (b *Bundle) Close() {
	b.mu.Lock()
	b.closed = true
	members := b.members
	b.mu.Unlock()
	b.sw.forwarder.links.drop(b.remote, b)
	b.best.Store(nil)
	b.sw.forwarder.linksChanged()
	for _, m := range members {
		if m.link != nil {
			m.link.Close()
		}
	}
	b.failing.Wait()
}

package sleeve

import (
	"crypto/rand"
	"encoding/binary"
	"sync"

	"github.com/overweave/overweave/mesh/overlay"
)

// Name2 is the name of the overlay between new peers in the mesh's handshake.
const Name2 = "sleeve2"

var _ overlay.Overlay = (*Overlay2)(nil)

// Overlay2 carries frames between two peers of Overweave, through the socket of an [Overlay] and read by it. It implements
// [overlay.Overlay]. Its links take super-frames. It is safe for concurrent use. Its format is in sleeve2.md.
type Overlay2 struct {
	base *Overlay

	links   table[uint32, *link2] // by id
	senders sync.Pool             // of *sender2
}

// Sleeve2 returns the overlay that shares the socket, and runs as long as o does.
func (o *Overlay) Sleeve2() *Overlay2 { return o.second }

func newOverlay2(base *Overlay) *Overlay2 {
	o := &Overlay2{base: base}
	o.senders.New = func() any { return newSender2() }
	return o
}

// Name implements [overlay.Overlay]; it returns the constant Name2.
func (o *Overlay2) Name() string { return Name2 }

// Prepare implements [overlay.Overlay], like [Overlay.Prepare].
func (o *Overlay2) Prepare(p overlay.Params) (overlay.Link, error) {
	if err := o.base.check(p); err != nil {
		return nil, err
	}
	l := newLink2(o, p)
	o.links.change(func(links map[uint32]*link2) {
		for l.own.link == 0 || links[l.own.link] != nil {
			l.own.link = randomID()
		}
		links[l.own.link] = l
	})
	return l, nil
}

func randomID() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])
}

func (o *Overlay2) unregister(l *link2) {
	o.links.change(func(links map[uint32]*link2) { delete(links, l.own.link) })
}

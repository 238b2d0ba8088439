package sleeve

import (
	"net/netip"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	packMessages = 64
	packArena    = 3 << 16 // room for the datagrams of one write
)

// packer packs frames into datagrams of one channel. It keeps its memory from one use to the next.
//
//	arena:   | datagram | datagram | datagram ... |    handed to write when the messages or the room run out
//	filling: | record | record ... |                   where they will stay in the arena, or to be sealed into it
type packer struct {
	channel    crypto.Channel
	self       peer.Name
	sealer     *crypto.DatagramSealer // nil: in the clear
	to         Message                // what all messages have in common
	maxPayload int                    // fill datagrams up to this
	limit      int                    // the first frame of a datagram may make it this big
	write      func([]Message)

	arena    []byte
	scratch  []byte // for what is to be sealed
	filling  []byte
	records  int // in filling
	messages []Message
}

// begin readies the packer for frames of one link to one address. write takes the datagrams, borrowed.
func (p *packer) begin(l *link, ch crypto.Channel, remote netip.AddrPort, write func([]Message)) {
	p.channel, p.self, p.sealer, p.write = ch, l.params.Self, l.sealer, write
	p.maxPayload = int(l.maxPayload.Load())
	p.limit = MaxDatagram
	if ch == crypto.DontFragment {
		p.limit = p.maxPayload
	}
	p.to = Message{Remote: remote, Local: l.local, DontFragment: ch == crypto.DontFragment}
}

func (p *packer) overhead() int {
	if p.sealer != nil {
		return sealedOverhead
	}
	return plainOverhead
}

// add puts a frame into the datagram that is being filled, or into the next. It returns false if the frame is too big for
// any. Section 4 of the sleeve specification.
func (p *packer) add(f *overlay.Frame) bool {
	room := p.reserve(f.Src, f.Dst, len(f.Data))
	copy(room, f.Data)
	return room != nil
}

// reserve is add for a frame of n bytes, which are to be put where it says; nil if the frame is too big.
func (p *packer) reserve(src, dst peer.Name, n int) []byte {
	need := recordLen + n
	if p.records == maxRecordsInOne || p.records > 0 && p.overhead()+len(p.filling)+need > p.maxPayload {
		p.finish()
	}
	if p.records == 0 {
		if p.overhead()+need > p.limit {
			return nil
		}
		p.start()
	}
	p.filling = appendRecordHeader(p.filling, src, dst, n)
	start := len(p.filling)
	p.filling = p.filling[:start+n]
	p.records++
	return p.filling[start:]
}

// start makes room for a datagram. There always is room for one in the arena.
func (p *packer) start() {
	if p.arena == nil {
		p.arena, p.messages = make([]byte, 0, packArena), make([]Message, 0, packMessages)
	}
	if p.sealer == nil {
		begin := len(p.arena) + plainOverhead
		p.filling = p.arena[begin:begin]
		return
	}
	if p.scratch == nil {
		p.scratch = make([]byte, 0, MaxDatagram)
	}
	p.filling = p.scratch
}

// finish completes the datagram that is being filled.
func (p *packer) finish() {
	if p.records == 0 {
		return
	}
	start := len(p.arena)
	p.arena = p.self.AppendBytes(p.arena)
	if p.sealer != nil {
		p.arena = p.sealer.Seal(p.arena, p.channel, p.filling)
	} else {
		p.arena = p.arena[:len(p.arena)+len(p.filling)] // they are there already
	}
	m := p.to
	m.Data = p.arena[start:len(p.arena):len(p.arena)]
	p.messages = append(p.messages, m)
	p.filling, p.records = nil, 0
	if len(p.messages) == packMessages || cap(p.arena)-len(p.arena) < MaxDatagram {
		p.flush()
	}
}

// flush writes what has been packed.
func (p *packer) flush() {
	p.finish()
	if len(p.messages) > 0 {
		p.write(p.messages)
	}
	clear(p.messages)
	p.messages, p.arena = p.messages[:0], p.arena[:0]
}

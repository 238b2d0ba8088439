package sleeve

import "sync/atomic"

// drop is why a link threw something away: a frame, or a datagram before its frames were known.
type drop uint8

const (
	dropClosed     drop = iota // sent before Confirm or after Close
	dropNoAddress              // sent before the remote's address is known
	dropTooBig                 // does not fit into a datagram, or must not be cut and nobody is to be told
	dropAnswered               // too big; its sender was told the MTU
	dropMalformed              // too big to go in one piece, and its IP header makes no sense
	dropSendTooBig             // datagram: the system calls it too big for the path
	dropSend                   // datagram: the socket did not take it
	dropSealed                 // datagram: does not open
	dropReplay                 // datagram: came before
	dropTruncated              // datagram: ends within a record; the records before it were used
	dropShort                  // no Ethernet header
	dropNobody                 // from or for nobody
	dropSpecial                // the link's own kind of frame, but not from the remote to us
	dropHops                   // came over too many links
	dropUnknown                // datagram: of a kind that is not known here
	dropCongested              // the network marked it in place of dropping it, and its ends know no marks
	dropEarly                  // datagram: overtook the hello, and so nobody can tell what it is
	numDrops
)

var dropNames = [numDrops]string{
	"closed", "no_address", "too_big", "too_big_answered", "malformed", "path_too_small", "socket", "not_authentic",
	"replayed", "truncated", "short", "nobody", "misdirected_control", "too_many_hops",
	"unknown_kind", "congested", "before_hello",
}

// drops counts by reason. It is safe for concurrent use.
type drops [numDrops]atomic.Uint64

func (d *drops) add(r drop, n int) { d[r].Add(uint64(n)) }

// report returns the reasons that occurred.
func (d *drops) report() map[string]uint64 {
	out := map[string]uint64{}
	for r := range d {
		if n := d[r].Load(); n > 0 {
			out[dropNames[r]] = n
		}
	}
	return out
}

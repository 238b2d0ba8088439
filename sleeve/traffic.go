package sleeve

import (
	"sync/atomic"

	"github.com/overweave/overweave/mesh/overlay"
)

// traffic counts what a link of either overlay has carried and dropped. It is safe for concurrent use.
type traffic struct {
	sentFrames, sentBytes         atomic.Uint64
	receivedFrames, receivedBytes atomic.Uint64
	drops                         drops
}

// fill puts the counts into a status.
func (t *traffic) fill(st *overlay.LinkStatus) {
	st.Sent = overlay.Counter{Frames: t.sentFrames.Load(), Bytes: t.sentBytes.Load()}
	st.Received = overlay.Counter{Frames: t.receivedFrames.Load(), Bytes: t.receivedBytes.Load()}
	st.Drops = t.drops.report()
}

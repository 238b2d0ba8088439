package mesh

import (
	"context"
	"net"
	"time"
)

const (
	maxSetUps   = 256         // inbound connections in introduction at a time
	acceptPause = time.Second // after an error
)

// accept takes connections, as often as the bucket allows.
func (r *Router) accept(ctx context.Context, listener net.Listener) {
	b := newBucket(time.Now(), bucketInterval)
	for {
		c, err := listener.Accept()
		now := time.Now()
		wait := time.Duration(0)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return
		case err == nil:
			if r.admit(ctx, c, now) {
				wait = b.take(now)
			}
		default: // out of descriptors, for example: that passes
			r.cfg.Log.Warn("accept", "err", err)
			wait = acceptPause
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// admit has a connection served, or closes it if there are too many. What is closed uses up no token.
func (r *Router) admit(ctx context.Context, c net.Conn, now time.Time) bool {
	from := addrPortOf(c.RemoteAddr()).Addr()
	if !r.sources.admit(from, now) {
		r.refuse(c)
		return false
	}
	if r.setUps.Add(1) <= maxSetUps && r.spawn(func() { r.serve(ctx, c) }) {
		return true
	}
	r.setUps.Add(-1)
	r.sources.settle(from)
	r.refuse(c)
	return false
}

func (r *Router) refuse(c net.Conn) {
	r.counter.refused.Add(1)
	_ = c.Close()
}

package mesh

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"
)

// maxPing bounds what a deltaPing may have us send back, in bytes.
const maxPing = 16

// probe measures how long a message takes to the other end of a link and back, queues included. It is safe for concurrent
// use.
type probe struct {
	mu    sync.Mutex
	token []byte // of the deltaPing that is on its way
	sent  time.Time
	rtt   time.Duration // of the last one that came back
}

// ping returns the deltaPing to send now.
func (p *probe) ping(now time.Time) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = now
	p.token = binary.BigEndian.AppendUint64(nil, rand.Uint64())
	return append([]byte{tagDelta, deltaPing}, p.token...)
}

// pong takes in what came back.
func (p *probe) pong(body []byte, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.token != nil && bytes.Equal(body, p.token) {
		p.rtt, p.token = now.Sub(p.sent), nil
	}
}

// last returns the last round trip, zero if there was none.
func (p *probe) last() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rtt
}

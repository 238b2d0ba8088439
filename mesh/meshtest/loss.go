package meshtest

import (
	"sync"
	"time"
)

const (
	firstResend = 200 * time.Millisecond
	firstSyn    = time.Second
	maxSends    = 6
	dialLimit   = 10 * time.Second
)

// loss is what a bad network does to connections.
type loss struct {
	mu          sync.Mutex
	probability float64
	random      func() float64
}

// SetLoss has what is sent get lost with a probability. As with TCP it is sent again, after 200 ms and then twice as long
// each time, and holds up what follows; what is lost six times in a row breaks the connection. Attempts to connect get lost
// too. random returns numbers in [0, 1); it is called by one goroutine at a time. With probability 0 the network is good
// again.
func (n *Network) SetLoss(probability float64, random func() float64) {
	if probability == 0 {
		n.loss.Store(nil)
		return
	}
	n.loss.Store(&loss{probability: probability, random: random})
}

// resend returns how late something arrives that is sent again until it does, and whether that helps.
func (l *loss) resend(timeout time.Duration) (late time.Duration, arrives bool) {
	if l == nil {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for range maxSends {
		if l.random() >= l.probability {
			return late, true
		}
		late += timeout
		timeout *= 2
	}
	return late, false
}

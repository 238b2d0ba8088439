package sleeve

import "time"

const (
	path2Floor    = 548 // UDP payload that any path is taken to carry: 576 less headers
	usualMTU      = 1500
	path2Step     = 8 // do not search for less than this
	path2Attempts = 4
	path2Retry    = 150 * time.Millisecond // of a test the first time; then twice that, and so on
	path2Missed   = 3                      // full datagrams without answer until the path is taken to have changed
	path2Again    = 10 * time.Minute       // look whether more passes
)

// path2 finds the largest datagram that passes a path: first what the system believes in, then by halving. It takes
// nobody's word but that of the other end, to which tests got through. Sizes are UDP payloads in bytes.
type path2 struct {
	size      int // in use
	good, bad int
	cand      int // being tried; 0 if no search is running
	sent      int
	retry     time.Time
	missed    int       // full datagrams in a row without answer
	again     time.Time // when to ask the system anew; zero: never yet
}

func (p *path2) searching() bool { return p.cand != 0 }

// believe takes what the system believes to pass, and has it tested, unless it is what is in use already.
func (p *path2) believe(now time.Time, limit int) {
	p.again = now.Add(path2Again)
	p.missed = 0
	limit = max(limit, path2Floor)
	if limit == p.good && p.size == p.good || p.searching() && limit == p.bad-1 {
		return
	}
	if limit < p.size || p.size == 0 || limit < p.good {
		p.good, p.size = path2Floor, limit // believed until it fails
	}
	p.bad = limit + 1
	p.try(limit)
}

// suspect begins again after full datagrams got lost.
func (p *path2) suspect() {
	p.missed = 0
	p.good, p.bad = path2Floor, max(p.size, path2Floor)+1
	p.try(p.size)
}

func (p *path2) try(size int) { p.cand, p.sent, p.retry = size, 0, time.Time{} }

// tick returns the size to test now, 0 if there is nothing to send. A candidate without answer is given up.
func (p *path2) tick(now time.Time) int {
	if !p.searching() || now.Before(p.retry) {
		return 0
	}
	if p.sent == path2Attempts {
		p.bad = p.cand
		if p.advance(); !p.searching() {
			return 0
		}
	}
	p.retry = now.Add(path2Retry << p.sent)
	p.sent++
	return p.cand
}

// passed takes the remote's word that a datagram arrived.
func (p *path2) passed(size int) {
	if size >= p.size {
		p.missed = 0
	}
	if p.searching() && size == p.cand {
		p.good, p.size = size, max(p.size, size)
		p.advance()
	}
}

// advance picks the next candidate or ends the search. Until then the size in use stays: to tell stations of a small one that
// is about to grow would hold them to it for minutes.
func (p *path2) advance() {
	p.cand = 0
	if p.bad-p.good > path2Step || p.good == path2Floor && p.bad > p.good+1 {
		p.try((p.good + p.bad) / 2)
		return
	}
	p.size = p.good
}

// full notes that a datagram of the size in use is sent, to be answered. It returns true if too many of them were not.
func (p *path2) full() (lost bool) {
	p.missed++
	return p.missed > path2Missed
}

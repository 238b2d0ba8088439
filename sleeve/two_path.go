package sleeve

import (
	"time"

	"github.com/overweave/overweave/mesh/overlay"
)

const (
	path2Floor    = 548 // UDP payload that any path is taken to carry: 576 less headers
	usualMTU      = 1500
	path2Step     = 8 // do not search for less than this
	path2Attempts = 4
	path2Retry    = 150 * time.Millisecond // of a test the first time, if the round trip is not known; then twice that, and so on
	path2Trips    = 4                      // round trips that a test has, between the next two
	path2MinRetry = 40 * time.Millisecond
	path2MaxRetry = time.Second
	path2Rounds   = 2                // of tests that what is in use has to fail: one may be lost to congestion
	path2Soon     = 15 * time.Second // try what the system believes in after nobody but tests spoke against it; then twice that,
	path2Again    = 10 * time.Minute // and so on, until this
)

// path2 finds the largest datagram that passes a path: first what the system believes in, then by halving. It takes
// nobody's word but that of the other end, to which tests got through. Sizes are UDP payloads in bytes.
type path2 struct {
	size      int // in use
	from      overlay.MTUSource
	good, bad int
	cand      int // being tried; 0 if no search is running
	sent      int
	rounds    int  // of tests that the candidate has left
	failed    bool // a candidate of this search did
	retry     time.Time
	believed  int           // what the system said last
	again     time.Time     // when to try that once more
	pause     time.Duration // before that, after the last failure
}

func (p *path2) searching() bool { return p.cand != 0 }

// believe takes what the system believes to pass, and has it tested if that is news, or was tested long ago.
func (p *path2) believe(now time.Time, limit int) {
	limit = max(limit, path2Floor)
	if limit == p.believed && now.Before(p.again) && p.size <= limit {
		return
	}
	if limit != p.believed {
		p.pause = 0
	}
	p.again, p.believed = now.Add(path2Again), limit
	if limit == p.good && p.size == p.good || p.searching() && limit == p.bad-1 {
		return
	}
	if limit < p.size || p.size == 0 || limit < p.good {
		p.good, p.size, p.from = path2Floor, limit, overlay.MTUFromSystem // believed until it fails
	}
	p.bad = limit + 1
	p.try(limit)
}

// verify tests whether what is in use still passes. If not a search begins.
func (p *path2) verify() {
	if p.searching() || p.size == 0 {
		return
	}
	p.good, p.bad = path2Floor, max(p.size, path2Floor)+1
	p.try(p.size)
	p.rounds = path2Rounds
}

func (p *path2) try(size int) { p.cand, p.sent, p.rounds, p.retry = size, 0, 1, time.Time{} }

// tick returns the size to test now, 0 if there is nothing to send. A candidate without answer is given up if what was sent
// behind the last test was answered, which heard tells. rtt is 0 if it is not known.
func (p *path2) tick(now time.Time, heard bool, rtt time.Duration) int {
	if !p.searching() || now.Before(p.retry) {
		return 0
	}
	if p.sent == path2Attempts && !heard { // nothing passes now
		p.sent--
	}
	if p.sent == path2Attempts && !p.fail(now) {
		return 0
	}
	wait := path2Retry
	if rtt > 0 {
		wait = min(max(path2Trips*rtt, path2MinRetry), path2MaxRetry)
	}
	p.retry = now.Add(wait << p.sent)
	p.sent++
	return p.cand
}

// fail notes that the candidate did not pass a round of tests, and reports whether there is more to test.
func (p *path2) fail(now time.Time) bool {
	p.rounds--
	if p.rounds > 0 {
		p.sent = 0
		return true
	}
	p.bad, p.failed = p.cand, true
	p.advance(now)
	return p.searching()
}

// passed takes the remote's word that a datagram arrived.
func (p *path2) passed(now time.Time, size int) {
	if p.searching() && size == p.cand {
		p.good, p.size = size, max(p.size, size)
		if p.good == p.size {
			p.from = overlay.MTUProbed
		}
		p.advance(now)
	}
}

// advance picks the next candidate or ends the search. Until then the size in use stays: to tell stations of a small one that
// is about to grow would hold them to it for minutes.
func (p *path2) advance(now time.Time) {
	p.cand = 0
	if p.bad-p.good > path2Step || p.good == path2Floor && p.bad > p.good+1 {
		p.try((p.good + p.bad) / 2)
		return
	}
	switch {
	case p.good > path2Floor:
		p.from = overlay.MTUProbed
	case p.size != p.good || p.from != overlay.MTUProbed:
		p.from = overlay.MTUAssumed
	}
	if p.good < p.size {
		p.pause = 0
	}
	p.size = p.good
	if p.failed {
		p.failed, p.pause = false, min(max(2*p.pause, path2Soon), path2Again)
		p.again = now.Add(p.pause)
	}
}

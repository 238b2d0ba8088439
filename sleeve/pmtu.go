package sleeve

import "time"

const (
	searchFloor  = 552
	testAttempts = 8
	firstRetry   = 10 * time.Millisecond
	// A test of this size would be taken for a fragmentation test.
	ambiguousMTU = fragTestLen - 14
)

// search finds the largest inner packet that passes the path, by halving: good is known to pass, bad not to. Section 11 of
// the sleeve specification.
type search struct {
	good, bad int
	cand      int // being tried; 0 if no search is running
	sent      int
	retry     time.Time
	proven    bool // good passed in this search
}

func (s *search) running() bool { return s.cand != 0 }

// start begins with what the kernel believes in. Below the usual floor its word is taken, give or take a byte.
func (s *search) start(mtu int) {
	*s = search{good: min(searchFloor, mtu-1), bad: mtu + 1, cand: mtu}
	s.avoidAmbiguous()
}

// grow begins with what is known to pass and what the kernel believes in beyond that.
func (s *search) grow(good, mtu int) {
	*s = search{good: good, bad: mtu + 1, cand: mtu}
	s.avoidAmbiguous()
}

// due returns when tick has something to do.
func (s *search) due() time.Time { return s.retry }

// tick returns the size to test now, 0 if there is nothing to send. A candidate without answer is given up.
func (s *search) tick(now time.Time) (test int) {
	if !s.running() || now.Before(s.retry) {
		return 0
	}
	if s.sent == testAttempts {
		s.bad = s.cand
		if s.advance(); !s.running() {
			return 0
		}
	}
	s.retry = now.Add(firstRetry << s.sent)
	s.sent++
	return s.cand
}

// verified takes the remote's word that a test of the given size arrived. It is ignored unless that is being tried.
func (s *search) verified(mtu int) {
	if s.running() && mtu == s.cand {
		s.good, s.proven = s.cand, true
		s.advance()
	}
}

// advance picks the next candidate or ends the search; then good is the result.
func (s *search) advance() {
	s.cand, s.sent, s.retry = 0, 0, time.Time{}
	if s.good+1 < s.bad {
		s.cand = (s.good + s.bad) / 2
		s.avoidAmbiguous()
	}
}

func (s *search) avoidAmbiguous() {
	if s.cand != ambiguousMTU {
		return
	}
	s.cand--
	if s.cand <= s.good {
		s.cand = 0
	}
}

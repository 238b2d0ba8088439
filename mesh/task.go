package mesh

import "time"

// task is something the engine does when it is due. Whoever wants it earlier moves it forward.
type task struct {
	at   time.Time // when it is due; zero if it is not
	last time.Time // when it was done
	run  func(now time.Time)
}

// soon has the task done at t, unless it is due earlier.
func (t *task) soon(at time.Time) {
	if t.at.IsZero() || at.Before(t.at) {
		t.at = at
	}
}

// notBefore returns now or, if the task was done a moment ago, when a pause after that is over.
func (t *task) notBefore(now time.Time, pause time.Duration) time.Time {
	return maxTime(now, t.last.Add(pause))
}

// settle does the task if it is due.
func (t *task) settle(now time.Time) {
	if !t.at.IsZero() && !t.at.After(now) {
		t.at, t.last = time.Time{}, now
		t.run(now)
	}
}

// earliest returns when the first of some tasks is due; zero if none is.
func earliest(tasks []*task) (first time.Time) {
	for _, t := range tasks {
		if !t.at.IsZero() && (first.IsZero() || t.at.Before(first)) {
			first = t.at
		}
	}
	return first
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

package daemon

import (
	"errors"
	"net/http"
	"slices"
	"sync"
)

// targets is which peers to connect to, in the words of the client that named them: section 2 of the HTTP specification.
type targets struct {
	Given []string // by the command line
	Now   []string // after what clients have changed
}

// targetList keeps the targets in step with the mesh and the file.
type targetList struct {
	mu sync.Mutex
	targets
}

// open returns the peers to connect to: those of the last run, if clients have changed them. But a command line that is not what
// it was then is a newer word.
func (l *targetList) open(c Config, s *state) []string {
	last, known := s.targets()
	if !known || !slices.Equal(last.Given, c.Peers) {
		last = targets{Given: c.Peers, Now: c.Peers}
	}
	l.targets = last
	return l.Now
}

// list returns whom to connect to.
func (l *targetList) list() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.Now)
}

// change changes the list and stores it, before a client is told of it.
func (l *targetList) change(s *state, f func(now []string) ([]string, error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	l.Now, err = f(slices.Clone(l.Now))
	return errors.Join(err, s.setTargets(l.targets))
}

// connect takes the good ones of a list of peers, and reports the others.
func (d *daemon) connect(w http.ResponseWriter, r *http.Request) {
	d.changeTargets(w, r, func(now []string) ([]string, error) {
		var errs []error
		if r.Form.Get("replace") == "true" {
			now, errs = nil, append(errs, d.router.Connect(true))
		}
		for _, p := range r.Form["peer"] {
			err := d.router.Connect(false, p)
			if errs = append(errs, err); err == nil && !slices.Contains(now, p) {
				now = append(now, p)
			}
		}
		return now, errors.Join(errs...)
	})
}

func (d *daemon) forget(w http.ResponseWriter, r *http.Request) {
	d.changeTargets(w, r, func(now []string) ([]string, error) {
		gone := r.Form["peer"]
		d.router.Forget(gone...)
		return slices.DeleteFunc(now, func(p string) bool { return slices.Contains(gone, p) }), nil
	})
}

// changeTargets answers a request to change the list.
func (d *daemon) changeTargets(w http.ResponseWriter, r *http.Request, f func(now []string) ([]string, error)) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxBody)
	err := r.ParseForm()
	if err == nil {
		err = d.targets.change(d.state, f)
	}
	if err != nil {
		fail(w, err)
	}
}

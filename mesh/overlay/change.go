package overlay

import (
	"slices"
	"sync"
)

// Change says which decisions that were made before may not hold any more.
type Change struct {
	// Station is the address, of a station or a group, to or from which frames may now go another way. If it is zero any
	// decision may be different: the routes have changed, or the links, or the short ids.
	Station MAC
}

// watchers are told of changes. The zero value has none.
type watchers struct {
	mu   sync.Mutex
	list []*func(Change) // copied when it changes
}

// add adds a watcher and returns what removes it.
func (w *watchers) add(f func(Change)) (remove func()) {
	at := &f
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(slices.Clone(w.list), at)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.list = slices.DeleteFunc(slices.Clone(w.list), func(g *func(Change)) bool { return g == at })
	}
}

func (w *watchers) tell(c Change) {
	w.mu.Lock()
	list := w.list
	w.mu.Unlock()
	for _, f := range list {
		(*f)(c)
	}
}

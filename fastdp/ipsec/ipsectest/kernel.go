// Package ipsectest keeps the policy and association databases of package ipsec in memory, and tells what becomes of packets
// by them, so that what is built on ipsec is tested without a kernel and without privileges.
//
//	a, b := ipsectest.NewKernel(), ipsectest.NewKernel()
//	... ipsec.New(ipsec.Config{Kernel: a}) ...
//	outcome := ipsectest.Send(a, b, ipsectest.Packet{Src: addrA, Dst: addrB, Port: 6784})
package ipsectest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/overweave/overweave/fastdp/ipsec"
)

// watchBacklog is how many events a watcher may be behind; then it misses some and is told so.
const watchBacklog = 64

// Kernel implements [ipsec.Kernel] for one host. It is safe for concurrent use.
type Kernel struct {
	mu           sync.Mutex
	changed      func()
	fail         func(request string) error
	policies     map[policyID]ipsec.Policy
	associations map[associationID]ipsec.Association
	watchers     map[chan ipsec.Event]bool
}

type policyID struct {
	ipsec.Selector
	ipsec.Direction
}

type associationID struct {
	dst netip.Addr
	spi uint32
}

var _ ipsec.Kernel = (*Kernel)(nil)

// NewKernel returns a kernel with empty databases, in which everything passes in the clear.
func NewKernel() *Kernel {
	return &Kernel{
		policies: map[policyID]ipsec.Policy{}, associations: map[associationID]ipsec.Association{}, watchers: map[chan ipsec.Event]bool{},
	}
}

// OnChange has a function called after each change, with nothing locked; nil ends that.
func (k *Kernel) OnChange(changed func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = changed
}

// OnRequest has a function asked before each request but Watch, with the name of the method; an error of it is the answer
// then. It is not called by several goroutines at once. nil ends that.
func (k *Kernel) OnRequest(fail func(request string) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = fail
}

// refuse returns the error that a request is to have. k.mu is held.
func (k *Kernel) refuse(request string) error {
	if k.fail == nil {
		return nil
	}
	return k.fail(request)
}

// change makes a request, and tells of it if it succeeds.
func (k *Kernel) change(request string, e ipsec.Event, apply func() error) error {
	k.mu.Lock()
	err := k.refuse(request)
	if err == nil {
		err = apply()
	}
	if err == nil {
		for w := range k.watchers {
			select {
			case w <- e:
			default:
				delete(k.watchers, w)
				close(w)
			}
		}
	}
	changed := k.changed
	k.mu.Unlock()
	if err == nil && changed != nil {
		changed()
	}
	return err
}

// PutPolicy implements [ipsec.Kernel].
func (k *Kernel) PutPolicy(p ipsec.Policy) error {
	return k.change("PutPolicy", ipsec.Event{Port: p.Port}, func() error {
		k.policies[policyID{p.Selector, p.Direction}] = p
		return nil
	})
}

// DeletePolicy implements [ipsec.Kernel].
func (k *Kernel) DeletePolicy(p ipsec.Policy) error {
	return k.change("DeletePolicy", ipsec.Event{Port: p.Port}, func() error {
		id := policyID{p.Selector, p.Direction}
		if _, ok := k.policies[id]; !ok {
			return fmt.Errorf("policy: %w", os.ErrNotExist)
		}
		delete(k.policies, id)
		return nil
	})
}

// AddAssociation implements [ipsec.Kernel].
func (k *Kernel) AddAssociation(a ipsec.Association) error {
	return k.change("AddAssociation", ipsec.Event{}, func() error {
		id := associationID{a.Dst.Addr(), a.SPI}
		if _, ok := k.associations[id]; ok {
			return fmt.Errorf("association: %w", os.ErrExist)
		}
		k.associations[id] = a
		return nil
	})
}

// DeleteAssociation implements [ipsec.Kernel].
func (k *Kernel) DeleteAssociation(a ipsec.Association) error {
	return k.change("DeleteAssociation", ipsec.Event{SPI: a.SPI}, func() error {
		id := associationID{a.Dst.Addr(), a.SPI}
		if _, ok := k.associations[id]; !ok {
			return fmt.Errorf("association: %w", os.ErrNotExist)
		}
		delete(k.associations, id)
		return nil
	})
}

// List implements [ipsec.Kernel].
func (k *Kernel) List() ([]ipsec.Policy, []ipsec.Association, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refuse("List"); err != nil {
		return nil, nil, err
	}
	associations := slices.Collect(maps.Values(k.associations))
	for i := range associations {
		associations[i].Key = ipsec.Key{}
	}
	return slices.Collect(maps.Values(k.policies)), associations, nil
}

// Watch implements [ipsec.Kernel].
func (k *Kernel) Watch(ctx context.Context, changed func(ipsec.Event)) error {
	w := make(chan ipsec.Event, watchBacklog)
	k.mu.Lock()
	k.watchers[w] = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		delete(k.watchers, w)
		k.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w:
			if !ok {
				return fmt.Errorf("events were missed: %w", os.ErrDeadlineExceeded)
			}
			changed(e)
		}
	}
}

// Flush empties both databases, as others may.
func (k *Kernel) Flush() {
	_ = k.change("Flush", ipsec.Event{All: true}, func() error {
		clear(k.policies)
		clear(k.associations)
		return nil
	})
}

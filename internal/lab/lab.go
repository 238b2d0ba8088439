package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
)

var (
	// ErrNotPermitted says that this process cannot make network namespaces, and cannot get to where it can either.
	ErrNotPermitted = errors.New("network namespaces cannot be made here: it takes root, or a system that lets users make user namespaces")
	// ErrNoShaping says that the kernel lacks the queueing discipline that a [Shape] needs.
	ErrNoShaping = errors.New("this kernel cannot shape links so")
)

// Lab is a set of hosts and switches on this machine. It is safe for concurrent use.
type Lab struct {
	thread *thread      // lives in no particular namespace: it makes them, and starts the commands in them
	links  atomic.Int32 // how many have been made

	mu       sync.Mutex // guards what follows, and is held while something is made
	closed   bool
	spaces   map[string]*Namespace
	commands map[*Cmd]struct{}
}

// New returns an empty lab. The error wraps [ErrNotPermitted] if this process cannot make namespaces; see [Reexec].
func New() (*Lab, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	return &Lab{thread: startThread(), spaces: map[string]*Namespace{}, commands: map[*Cmd]struct{}{}}, nil
}

// Host adds a host that is connected to nothing; its loopback device is up. Names are unique in a lab, over hosts,
// containers and switches.
func (l *Lab) Host(name string) (*Host, error) {
	ns, err := l.namespace(name)
	if err != nil {
		return nil, err
	}
	return &Host{Namespace: ns}, nil
}

// Switch adds an Ethernet switch that nothing is joined to.
func (l *Lab) Switch(name string) (*Switch, error) {
	ns, err := l.namespace(name)
	if err != nil {
		return nil, err
	}
	if err := addBridge(ns); err != nil {
		return nil, fmt.Errorf("switch %s: %w", name, err)
	}
	return &Switch{ns: ns}, nil
}

// LinkConfig says what a link between two hosts is like. The zero value is a link without addresses.
type LinkConfig struct {
	// MTU in bytes of both ends; 0 means 1500.
	MTU int
	// A and B are the addresses at the two ends; an invalid one means none.
	A, B netip.Prefix
}

// Link joins two hosts directly.
func (l *Lab) Link(a, b *Host, cfg LinkConfig) (*Link, error) {
	link := newLink(end{a.Namespace, a.nextDevice()}, end{b.Namespace, b.nextDevice()})
	if err := link.create(cfg); err != nil {
		return nil, fmt.Errorf("link from %s to %s: %w", a.name, b.name, err)
	}
	return link, nil
}

// namespace makes a network namespace and holds it.
func (l *Lab) namespace(name string) (*Namespace, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("lab: %w", os.ErrClosed)
	}
	if l.spaces[name] != nil {
		return nil, fmt.Errorf("lab: there is a %q already", name)
	}
	netns, err := l.thread.newNetNS()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	ns := &Namespace{name: name, lab: l, netns: netns}
	if err := ns.Do(loopbackUp); err != nil {
		return nil, errors.Join(err, netns.Close())
	}
	l.spaces[name] = ns
	return ns, nil
}

// Close kills the commands that still run, waits for them, and gives up all namespaces; with the last process and socket in
// them they cease to be, and all devices with them. It is idempotent.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	var running []*Cmd
	for c := range l.commands {
		running = append(running, c)
	}
	l.mu.Unlock()

	for _, c := range running {
		_ = c.Process.Kill()
	}
	for _, c := range running {
		_ = c.Wait() // that it was killed is no news
	}
	l.thread.stop()
	var errs []error
	for _, ns := range l.spaces {
		errs = append(errs, ns.netns.Close())
	}
	return errors.Join(errs...)
}

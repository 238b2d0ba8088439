package lab

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Two ends of a pair that have the same index, as happens in different namespaces, are not seen to be one at first: then
// the kernel takes up to a second to put them to use. It counts from 1; so we choose the index of one end, far from there.
const firstIndex = 10_000

// Switch is an Ethernet switch: hosts that are joined to it are on one network.
type Switch struct {
	ns    *Namespace
	ports atomic.Int32
}

// Join connects a host to the switch, with an address if addr is valid.
func (s *Switch) Join(h *Host, addr netip.Prefix) (*Link, error) {
	port := end{s.ns, fmt.Sprintf("port%d", s.ports.Add(1)-1)}
	link := newLink(end{h.Namespace, h.nextDevice()}, port)
	if err := link.create(LinkConfig{A: addr}); err != nil {
		return nil, fmt.Errorf("joining %s to %s: %w", h.name, s.ns.name, err)
	}
	if err := addPort(port); err != nil {
		removeDevice(port)
		return nil, fmt.Errorf("joining %s to %s: %w", h.name, s.ns.name, err)
	}
	return link, nil
}

// Link is a cable: between two hosts, or between a host and a switch. It is safe for concurrent use.
type Link struct {
	ends [2]end

	mu    sync.Mutex // guards what follows, and is held while the kernel is told
	cut   bool
	shape Shape
}

// end is a network device in a namespace.
type end struct {
	ns     *Namespace
	device string
}

func newLink(a, b end) *Link { return &Link{ends: [2]end{a, b}} }

// Device returns the name of the network device that the host has at its end, "" if the link does not end there.
func (k *Link) Device(h *Host) string {
	for _, e := range k.ends {
		if e.ns == h.Namespace {
			return e.device
		}
	}
	return ""
}

// create makes the link, with the addresses and the MTU of cfg, and puts both ends up.
func (k *Link) create(cfg LinkConfig) error {
	index := firstIndex + int(k.ends[0].ns.lab.links.Add(1))
	if err := addVeth(k.ends, cfg.MTU, index); err != nil {
		return err
	}
	for i, addr := range []netip.Prefix{cfg.A, cfg.B} {
		if !addr.IsValid() {
			continue
		}
		if err := addAddress(k.ends[i], addr); err != nil {
			removeDevice(k.ends[i])
			return err
		}
	}
	return nil
}

// SetMTU changes the MTU of both ends, in bytes.
func (k *Link) SetMTU(mtu int) error {
	for _, e := range k.ends {
		if err := setMTU(e, mtu); err != nil {
			return err
		}
	}
	return nil
}

// Shape is what a link does to packets, in each direction alike. The zero value lets them pass.
type Shape struct {
	// Delay of each packet on its way.
	Delay time.Duration
	// Loss is the share of packets that get lost, from 0 to 1.
	Loss float64
	// Rate in bytes per second; 0 means as fast as the machine can.
	Rate uint64
}

// Shape makes the link slow, slower or lossy. The error wraps [ErrNoShaping] if the kernel cannot do it: Delay and Loss
// need netem, Rate alone needs tbf. While the link is cut the shape is kept for when it heals.
func (k *Link) Shape(s Shape) error {
	if s.Delay < 0 || s.Loss < 0 || s.Loss > 1 {
		return fmt.Errorf("lab: delay %v and loss %v are not possible", s.Delay, s.Loss)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.change(k.cut, s)
}

// Cut makes the link lose all packets, both ways. The ends do not notice: they keep carrier, addresses and routes, as if
// something broke in the middle of the path.
func (k *Link) Cut() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.change(true, k.shape)
}

// Heal ends a cut; the link is as it was before.
func (k *Link) Heal() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.change(false, k.shape)
}

// change makes both ends so, or leaves them as they were.
func (k *Link) change(cut bool, s Shape) error {
	for i, e := range k.ends {
		if err := setQueue(e, cut, s); err != nil {
			for _, done := range k.ends[:i] {
				_ = setQueue(done, k.cut, k.shape) // it took this before
			}
			return err
		}
	}
	k.cut, k.shape = cut, s
	return nil
}

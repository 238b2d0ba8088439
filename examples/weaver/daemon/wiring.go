package daemon

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/overweave/overweave/internal/device"
)

// part is something on the host that a daemon makes for itself, besides the devices of containers.
type part struct{ Kind, Name string }

// The kinds of parts.
const (
	partBridge   = "bridge"
	partPair     = "veth pair" // named by its outer end
	partDatapath = "datapath"
	partFirewall = "firewall" // the rules for the bridge of that name
)

func (p part) remove() error {
	switch p.Kind {
	case partBridge:
		return device.RemoveBridge(p.Name)
	case partPair:
		return device.RemovePair(p.Name)
	case partDatapath:
		return removeDatapath(p.Name)
	case partFirewall:
		return device.RemoveFirewall(p.Name)
	}
	return fmt.Errorf("a %s is nothing that a daemon makes", p.Kind)
}

// exists reports whether a part is there. Rules of a firewall say themselves whose they are, so there are none of others.
func (p part) exists() (bool, error) {
	if p.Kind == partFirewall {
		return false, nil
	}
	return device.Exists(p.Name)
}

// wiring is what daemons have made on this host and not removed. It is kept with the state, so that a daemon may remove what one
// before it made, and nothing that others did.
type wiring struct {
	Mode Mode // of the last run
	Made []part
}

// wanted are the parts of a mode; whether there is a packet socket, with its pair, is known only later.
func (m Mode) wanted(bridge string) []part {
	firewall := part{partFirewall, bridge}
	switch m {
	case ModeDirect:
		return []part{{partDatapath, bridge}, firewall}
	case ModeBridged:
		return []part{{partBridge, bridge}, {partPair, dpOuterName}, {partDatapath, datapathName}, firewall}
	default:
		return []part{{partBridge, bridge}, {partPair, outerName}, firewall}
	}
}

// leftovers returns what was made and is not wanted, in the order in which it is to be removed.
func leftovers(made, wanted []part) (out []part) {
	for _, p := range slices.Backward(made) {
		if !slices.Contains(wanted, p) {
			out = append(out, p)
		}
	}
	return out
}

// convert removes what a run in another mode has made and this one has no use for. What containers are attached to stays, and
// is a reason not to start.
func (b *bridge) convert(containers int) error {
	left := leftovers(b.wiring.Made, b.mode.wanted(b.name))
	for _, p := range left {
		if p.Name == b.name && containers > 0 {
			return fmt.Errorf("detach the containers of the %s %s first (%d attached), or start with --mode %s",
				p.Kind, p.Name, containers, b.wiring.Mode)
		}
	}
	for _, p := range left {
		if err := b.removePart(p); err != nil {
			return fmt.Errorf("the %s %s of a run in mode %s: %w", p.Kind, p.Name, b.wiring.Mode, err)
		}
	}
	b.wiring.Mode = b.mode
	return b.save(b.wiring)
}

// record is called before a part is made or adopted. If it is to be made that is recorded, so that even a daemon that is killed in the
// next moment leaves nothing for ever. Parts that are there and that nobody has recorded are others'.
func (b *bridge) record(p part) error {
	there, err := p.exists()
	if err != nil || there || slices.Contains(b.wiring.Made, p) {
		return err
	}
	b.wiring.Made = append(b.wiring.Made, p)
	return b.save(b.wiring)
}

func (b *bridge) removePart(p part) error {
	if err := p.remove(); err != nil {
		return err
	}
	b.gone = b.gone || p == part{partDatapath, b.datapath}
	b.wiring.Made = slices.DeleteFunc(slices.Clone(b.wiring.Made), func(q part) bool { return q == p })
	return b.save(b.wiring)
}

// removeAll removes all that daemons have made, the last part first.
func (b *bridge) removeAll() error {
	var errs []error
	for _, p := range leftovers(b.wiring.Made, nil) {
		errs = append(errs, b.removePart(p))
	}
	return errors.Join(errs...)
}

// alive counts the containers that are attached, whatever has become of others that were.
func (s *state) alive() (n int, err error) {
	known, err := s.attachments()
	if err != nil || len(known) == 0 {
		return 0, err
	}
	links, err := device.Veths()
	return len(reconcile(known, links, verdict{}, time.Time{}).alive), err
}

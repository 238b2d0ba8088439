package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/sleeve/port"
)

// Names of the devices that connect the bridge to the switch: a TAP, or a pair of which a packet socket has the outer end.
const (
	tapName   = "vethwe-tap"
	innerName = "vethwe-bridge"
	outerName = "vethwe-pcap"
)

// bridge is the host's bridge and the port by which the switch takes part in it.
type bridge struct {
	name     string
	mtu      int
	port     overlay.Port
	kind     string // of the port, for people
	note     string // why it is not the better kind
	created  bool   // by this daemon, in this run
	pairMade bool
	inUse    func() bool // whether the bridge has to stay; nil: no
}

// openBridge makes the bridge, or adopts the one that is there, and joins it.
func openBridge(c Config) (*bridge, error) {
	mac := c.Name.Bytes()
	b := &bridge{name: c.Bridge, mtu: c.MTU}
	var err error
	if b.created, err = device.EnsureBridge(device.Bridge{Name: c.Bridge, MAC: net.HardwareAddr(mac[:]), MTU: c.MTU}); err != nil {
		return nil, err
	}
	if err := b.join(c.NoTAP); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// join opens the port: a TAP if there may be one, else a packet socket.
func (b *bridge) join(noTAP bool) error {
	if noTAP {
		b.note = "TAP devices are turned off"
		return b.joinPacket()
	}
	err := b.joinTAP()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		b.note = err.Error()
		return b.joinPacket()
	}
	return err
}

func (b *bridge) joinTAP() error {
	tap, err := port.OpenTAP(port.TAPConfig{Name: tapName, MTU: b.mtu})
	if err != nil {
		return err
	}
	if err := device.AddPort(b.name, tapName); err != nil {
		return errors.Join(fmt.Errorf("joining the bridge: %w", err), tap.Close())
	}
	b.port, b.kind = tap, "tap"
	return nil
}

func (b *bridge) joinPacket() (err error) {
	b.pairMade, err = device.EnsurePair(device.Pair{Bridge: b.name, Inner: innerName, Outer: outerName, MTU: b.mtu})
	if err != nil {
		return err
	}
	p, err := port.OpenPacket(port.PacketConfig{Interface: outerName})
	if err != nil {
		return err
	}
	b.port, b.kind = p, "packet socket"
	return nil
}

// Close leaves the bridge. What this run has made is removed, unless containers use it.
func (b *bridge) Close() error {
	var errs []error
	if b.port != nil {
		errs = append(errs, ignoreClosed(b.port.Close()))
	}
	if b.inUse != nil && b.inUse() {
		return errors.Join(errs...)
	}
	if b.pairMade {
		errs = append(errs, device.RemovePair(innerName))
	}
	if b.created {
		errs = append(errs, device.RemoveBridge(b.name))
	}
	return errors.Join(errs...)
}

func (b *bridge) status(addresses []netip.Prefix) api.BridgeStatus {
	return api.BridgeStatus{Name: b.name, Addresses: addresses, Port: b.kind, PortNote: b.note, MTU: b.mtu}
}

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/sleeve/port"
)

// Names of the devices that connect the bridge to the switch: a TAP, or a pair of which a packet socket or the datapath has the
// outer end. In the modes with a datapath the TAP is a port of that.
const (
	tapName      = "vethwe-tap"
	innerName    = "vethwe-bridge"
	outerName    = "vethwe-pcap"
	dpOuterName  = "vethwe-datapath"
	datapathName = "datapath" // in ModeBridged
)

// maxQueues bounds the queues of the TAP, and with them the readers, each of which has buffers for super-frames.
const maxQueues = 8

// bridge is the host's bridge and the port by which the switch takes part in it.
type bridge struct {
	name string
	mtu  int
	mode Mode
	port overlay.Port
	kind string // of the port, for people
	note string // why it is not the better kind

	datapath string         // the name of the datapath; "" for none
	inUse    func() bool    // whether the bridge has to stay; nil: no
	undo     []func() error // what this run has made
	gone     bool           // the datapath was removed, and tunnels with it
}

// openBridge makes the bridge of the wanted mode, or adopts the one that is there, and joins it.
func openBridge(c Config) (*bridge, error) {
	b := &bridge{name: c.Bridge, mtu: c.MTU, mode: c.Mode}
	if b.mode == "" {
		b.choose(c.NoTAP)
	}
	if err := b.open(c); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// choose takes the best mode that the kernel can: one with a datapath, which takes a TAP too.
func (b *bridge) choose(noTAP bool) {
	b.mode = ModeBridge
	if noTAP {
		return
	}
	if err := withDatapaths(func(context.Context, *odp.Conn) error { return nil }); err != nil {
		b.note = err.Error()
		return
	}
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		b.note = err.Error()
		return
	}
	_ = tun.Close()
	b.mode = ModeBridged
}

func (b *bridge) open(c Config) error {
	if b.mode == ModeDirect {
		b.datapath = b.name
		return b.openDatapath()
	}
	mac := c.Name.Bytes()
	made, err := device.EnsureBridge(device.Bridge{Name: b.name, MAC: net.HardwareAddr(mac[:]), MTU: b.mtu})
	if err != nil {
		return err
	}
	if made {
		b.onUndo(func() error { return device.RemoveBridge(b.name) })
	}
	if b.mode == ModeBridge {
		return b.join(c.NoTAP)
	}
	if err := b.pair(dpOuterName, true); err != nil {
		return err
	}
	b.datapath = datapathName
	return b.openDatapath()
}

func (b *bridge) onUndo(f func() error) { b.undo = append(b.undo, f) }

// pair makes the veth pair of which the bridge has the inner end.
func (b *bridge) pair(outer string, offload bool) error {
	made, err := device.EnsurePair(device.Pair{Bridge: b.name, Inner: innerName, Outer: outer, MTU: b.mtu, Offload: offload})
	if made {
		b.onUndo(func() error { return device.RemovePair(innerName) })
	}
	return err
}

// openDatapath makes the datapath, or finds it, and the TAP by which the switch takes part in it.
func (b *bridge) openDatapath() error {
	made, err := ensureDatapath(b.datapath)
	if made {
		b.onUndo(func() error {
			err := removeDatapath(b.datapath)
			b.gone = err == nil
			return err
		})
	}
	if err != nil {
		return err
	}
	if err := device.SetUp(b.datapath, b.mtu); err != nil {
		return err
	}
	tap, err := b.openTAP()
	if err != nil {
		return err
	}
	b.port, b.kind = tap, "datapath, tap"
	return device.SetUp(tapName, b.mtu)
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
	tap, err := b.openTAP()
	if err != nil {
		return err
	}
	if err := device.AddPort(b.name, tapName); err != nil {
		return errors.Join(fmt.Errorf("joining the bridge: %w", err), tap.Close())
	}
	b.port, b.kind = tap, "tap"
	return nil
}

// openTAP opens a TAP device with a queue for each processor, so that what containers send is sealed by all of them.
func (b *bridge) openTAP() (*port.TAP, error) {
	return port.OpenTAP(port.TAPConfig{Name: tapName, MTU: b.mtu, Queues: min(runtime.GOMAXPROCS(0), maxQueues)})
}

func (b *bridge) joinPacket() error {
	if err := b.pair(outerName, false); err != nil {
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
	for i := len(b.undo) - 1; i >= 0; i-- {
		errs = append(errs, b.undo[i]())
	}
	return errors.Join(errs...)
}

func (b *bridge) status(addresses []netip.Prefix) api.BridgeStatus {
	return api.BridgeStatus{Name: b.name, Mode: string(b.mode), Addresses: addresses, Port: b.kind, PortNote: b.note, MTU: b.mtu}
}

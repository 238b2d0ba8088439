package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	mac  net.HardwareAddr // of the bridge, or of the datapath's own device: the peer's name, as with Weave Net
	mode Mode
	port overlay.Port
	kind string // of the port, for people
	note string // why it is not the better kind

	datapath string             // the name of the datapath; "" for none
	wiring   wiring             // what is there to remove
	save     func(wiring) error // keeps that over a restart
	inUse    func() bool        // whether the bridge has to stay
	gone     bool               // the datapath was removed, and tunnels with it
}

// openBridge makes the bridge of the wanted mode, or adopts the one that is there, and joins it. If no mode is wanted, containers
// that are attached say which one: that of the last run, as they are attached to what it made.
func openBridge(c Config, s *state) (*bridge, error) {
	mac := c.Name.Bytes()
	b := &bridge{name: c.Bridge, mtu: c.MTU, mac: mac[:], mode: c.Mode, wiring: s.wiring(), save: s.setWiring}
	containers, err := s.alive()
	if err != nil {
		return nil, err
	}
	if b.mode == "" && containers > 0 && !(c.NoTAP && b.wiring.Mode == ModeBridged) { // that takes a TAP
		b.mode = b.wiring.Mode
	}
	if b.mode == "" {
		b.choose(c.NoTAP)
	}
	b.inUse = func() bool { return containers > 0 }
	if err := b.convert(containers); err != nil {
		return nil, err
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
	if err := b.record(part{partBridge, b.name}); err != nil {
		return err
	}
	if _, err := device.EnsureBridge(device.Bridge{Name: b.name, MAC: b.mac, MTU: b.mtu}); err != nil {
		return explain(err)
	}
	if b.mode == ModeBridge {
		if err := device.RemovePair(dpOuterName); err != nil { // a datapath that nobody runs would forward as well
			return err
		}
		return b.join(c.NoTAP)
	}
	if err := b.pair(dpOuterName, true); err != nil {
		return err
	}
	b.datapath = datapathName
	return b.openDatapath()
}

// explain says what to do about a device that has the name of ours and is something else.
func explain(err error) error {
	if errors.Is(err, device.ErrWrongKind) || errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w (if a daemon in another mode left it, `weaver reset` removes it)", err)
	}
	return err
}

// pair makes the veth pair of which the bridge has the inner end. One of another mode makes way, as nothing is attached to it.
func (b *bridge) pair(outer string, offload bool) error {
	if err := b.record(part{partPair, outer}); err != nil {
		return err
	}
	pair := device.Pair{Bridge: b.name, Inner: innerName, Outer: outer, MTU: b.mtu, Offload: offload}
	_, err := device.EnsurePair(pair)
	if errors.Is(err, device.ErrWrongKind) {
		if err := device.RemovePair(innerName); err != nil {
			return err
		}
		_, err = device.EnsurePair(pair)
	}
	return err
}

// openDatapath makes the datapath, or finds it, and the TAP by which the switch takes part in it.
func (b *bridge) openDatapath() error {
	if err := b.record(part{partDatapath, b.datapath}); err != nil {
		return err
	}
	if err := ensureDatapath(b.datapath); err != nil {
		return explain(err)
	}
	if err := device.SetUp(b.datapath, b.mtu, b.mac); err != nil {
		return err
	}
	tap, err := b.openTAP()
	if err != nil {
		return err
	}
	b.port, b.kind = tap, "datapath, tap"
	return device.SetUp(tapName, b.mtu, nil)
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

// Close leaves the bridge. What this run or one before it has made is removed, unless containers use it.
func (b *bridge) Close() error {
	var errs []error
	if b.port != nil {
		errs = append(errs, ignoreClosed(b.port.Close()))
	}
	if b.inUse() {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, b.removeAll())...)
}

func (b *bridge) status() api.BridgeStatus {
	return api.BridgeStatus{Name: b.name, Mode: string(b.mode), Port: b.kind, PortNote: b.note, MTU: b.mtu}
}

package device

import (
	"errors"
	"net"
	"net/netip"
)

var (
	// ErrWrongKind says that there is a device of the wanted name, but it is something else.
	ErrWrongKind = errors.New("there is a device of this name, but of another kind")
	// ErrNoDevice says that there is no network device of the name.
	ErrNoDevice = errors.New("no such network device")
	// ErrRouted says that a container has another default route already.
	ErrRouted = errors.New("the container has another default route already")
	// ErrAttached says that a container is attached already, and not by what was asked for.
	ErrAttached = errors.New("the container is attached already")
)

// Bridge describes a Linux bridge.
type Bridge struct {
	// Name of the device, 1 to 15 bytes. Weave Net's is "weave".
	Name string
	// MAC of the bridge, which Weave Net takes from the peer name; nil leaves what the kernel chooses.
	MAC net.HardwareAddr
	// MTU in bytes; 0 leaves what is there: the smallest of the ports.
	MTU int
}

// Pair describes the veth pair by which an overlay is connected to the bridge that works with a packet socket, or is a
// datapath in the kernel.
type Pair struct {
	// Bridge is the name of the bridge.
	Bridge string
	// Inner is the end that is a port of the bridge, Outer the free one that the socket is bound to. Weave Net's are
	// "vethwe-bridge" and "vethwe-pcap".
	Inner, Outer string
	// MTU in bytes; 0 means that of the bridge.
	MTU int
	// Offload lets frames pass unfinished, with checksums to be computed and super-frames to be cut: for a datapath, which
	// stays in the kernel.
	Offload bool
}

// Attachment describes how a container is connected.
type Attachment struct {
	// Bridge is the name of the bridge to connect to, or of a datapath's own device if Join is set.
	Bridge string
	// Join makes the host's end, which is up, a port of a datapath. Nil: Bridge is a Linux bridge.
	Join func(device string) error
	// NetNS is the path of the container's network namespace, as [ResolveNetNS] returns it.
	NetNS string
	// HostName is the name of the end of the veth pair that is a port of the bridge; see [HostName].
	HostName string
	// Interface is the name of the container's end; "" means [DefaultInterface].
	Interface string
	// MAC of the container's end; nil leaves what the kernel chooses.
	MAC net.HardwareAddr
	// MTU in bytes of both ends; 0 means that of the bridge.
	MTU int
	// Addresses of the container's end, IPv4, each with the length of its subnet's prefix.
	Addresses []netip.Prefix
	// Gateway is where the container's default route leads; it need not be in the subnet of an address, but on the other side
	// of the interface. Invalid: it gets no such route.
	Gateway netip.Addr
	// NoMulticastRoute leaves multicast to other routes; else it gets one, unless it has one.
	NoMulticastRoute bool
}

// Attached is what [Attach] has done.
type Attached struct {
	// Created is true if the interface is new.
	Created bool
	// MAC of the container's interface.
	MAC net.HardwareAddr
	// Added are those addresses that it did not have before.
	Added []netip.Prefix
}

// DefaultInterface is the name of a container's interface to the overlay.
const DefaultInterface = "ethwe"

// HostName returns the name that Weave Net gives to the host's end of a container's veth pair: id is the number of the
// container's process or what else tells containers apart by its first 7 bytes.
func HostName(id string) string {
	const prefix, n = "vethwepl", 7
	return prefix + id[:min(n, len(id))]
}

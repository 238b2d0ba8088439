// Package port puts an overlay's frames onto the host and takes the host's: a TAP device ([OpenTAP]), usually a port of a
// bridge, or a packet socket on an interface that exists ([OpenPacket]), usually the free end of a veth pair whose other end
// is in the bridge. Both implement the port contract of mesh/overlay; the twin in memory is overlaytest.Port.
//
// Both take what the kernel has not finished: frames with checksums that are yet to be computed, and bundles of many TCP or
// UDP segments in one, which the kernel hands over with a virtio network header. One system call then brings up to 64 KiB,
// and the port computes the checksums and cuts the segments (offload.go); what Read returns is complete frames. ReadFrames
// and WriteFrames give super-frames as they are, and take them: that is the way between containers of two hosts that keeps
// segmentation offload.
//
// What a packet socket cannot describe is lost, and counted as malformed: super-frames of UDP before Linux 6.2, and those of
// SCTP. So the end of the veth pair that frames come from should leave these offloads to the processor (ethtool -K END
// tx-udp-segmentation off tx-sctp-segmentation off); a TAP device does so by itself. Super-frames of TCP or UDP inside of a
// tunnel's packets, such as VXLAN or Geneve, are cut by the port (tunnel.go), for nobody takes them as they are; it saves
// that work to turn off tx-udp_tnl-segmentation and its like there.
//
// A TAP device may have several queues ([TAPConfig]), each to be read by a goroutine of its own. The kernel spreads flows over
// them; the frames of one flow come from one queue, in their order.
//
// Linux only; elsewhere opening returns an error that wraps [errors.ErrUnsupported]. It needs CAP_NET_ADMIN for TAP devices
// and CAP_NET_RAW for packet sockets, in the user namespace that owns the network namespace.
package port

import "sync/atomic"

// TAPConfig configures a TAP device.
type TAPConfig struct {
	// Name is the name of the device, at most 15 bytes. It is made if it does not exist. Required.
	Name string
	// MTU is the MTU to set, in bytes. Zero leaves it as it is: 1500 for a new device.
	MTU int
	// Queues is the number of queues, at most 16. Zero means one. With more, all have to be read: [TAP.ReadQueue].
	Queues int
}

// PacketConfig configures a packet socket.
type PacketConfig struct {
	// Interface is the name of the interface. It has to exist. Required.
	Interface string
}

// Status says what a port does, and counts what a port threw away since it was opened.
type Status struct {
	// TooLong frames did not fit the reader's buffer.
	TooLong uint64 `json:"too_long"`
	// Malformed frames came from the kernel with a description that does not fit them.
	Malformed uint64 `json:"malformed"`
	// Overflows are frames that the kernel dropped because they were not read in time. Packet sockets only.
	Overflows uint64 `json:"overflows"`
	// Refused frames were written, but the kernel did not take them: the device is down, full, or its MTU too small.
	Refused uint64 `json:"refused"`
	// Offloads has, for each offload of the system, "in use" or why not, and the number of queues.
	Offloads map[string]string `json:"offloads,omitempty"`
}

const inUse = "in use"

// counters is the live form of Status.
type counters struct {
	tooLong, malformed, overflows, refused atomic.Uint64
}

func (c *counters) status() Status {
	return Status{
		TooLong: c.tooLong.Load(), Malformed: c.malformed.Load(), Overflows: c.overflows.Load(), Refused: c.refused.Load(),
	}
}

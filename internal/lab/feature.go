package lab

import "errors"

// Feature is something that not every Linux kernel has.
type Feature string

const (
	// OpenVSwitch is the datapath of Open vSwitch.
	OpenVSwitch Feature = "openvswitch"
	// ESP is IPsec's encryption of packets, with AES-GCM.
	ESP Feature = "esp"
	// Netem delays and loses packets; see [Shape].
	Netem Feature = "netem"
	// Geneve is the tunnel of that name.
	Geneve Feature = "geneve"
	// ConntrackZones lets connections be tracked apart from each other.
	ConntrackZones Feature = "conntrack zones"
	// SMP is more than one processor.
	SMP Feature = "two processors"
)

// ErrNoFeature says that the running kernel lacks a feature.
var ErrNoFeature = errors.New("the running kernel lacks it")

// Probe returns nil if the running kernel has the feature; it has used it in a namespace of its own to find out. The error
// wraps [ErrNoFeature] if the kernel lacks it and [ErrNotPermitted] if this process cannot try.
func (f Feature) Probe() error { return probe(f) }

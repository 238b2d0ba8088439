package fastdp

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

const (
	// DefaultPort is the UDP port of tunnels: that of the mesh plus one.
	DefaultPort = 6784
	// DefaultMTU leaves room for the tunnel and for encryption in packets of 1460 bytes.
	DefaultMTU = 1376

	minMTU = 576
	maxMTU = maxFrame - overlay.HeaderLen

	// Defaults of durations in a Config.
	defaultHold  = time.Minute
	defaultSweep = 5 * time.Second
	defaultIdle  = 5 * time.Minute

	defaultMaxFlows = 1 << 18
	maxReaders      = 16
)

// Config configures a Datapath.
type Config struct {
	// Self is the name of this peer. Required.
	Self peer.Name
	// Forwarder decides where frames go; it is that of the [overlay.Switch] which has the overlays. Required.
	Forwarder *overlay.Forwarder
	// Name is the name of the datapath and of its device. "" means "datapath". It is made if there is none, and adopted with its
	// flows and ports if there is. Self-tests of offloads set the device up.
	Name string
	// Port is the UDP port at which tunnels of connections that others dialled end: that of the mesh plus one. 0 means
	// DefaultPort.
	Port uint16
	// MTU is the largest IP packet of the overlay, in bytes. 0 means DefaultMTU. Stations are expected to keep to it; heartbeats
	// of that size show whether the path lets it pass.
	MTU int
	// UserPort is the name of the device, such as a TAP, through which the switch gets frames of local stations for neighbours
	// that only other overlays reach, and delivers those that come from there. "" means none: such frames take the slow way by
	// misses. It is attached as soon as it exists.
	UserPort string
	// HostPort makes the datapath's own device a port for the host itself.
	HostPort bool
	// Protector guards and encrypts tunnels. Nil means that nothing does: links with a key are refused.
	Protector Protector
	// ODP says how the kernel is asked. The zero value is the kernel that this runs on.
	ODP odp.Config
	// Readers is the number of sockets, with a goroutine each, for frames of this host that no flow matches; for those from
	// tunnels there are half as many. 0 means one for each CPU that the program may use; there are no more than there are CPUs,
	// nor than 16.
	Readers int
	// MaxFlows bounds the number of flows. Beyond it frames are handled one by one. 0 means 262,144.
	MaxFlows int
	// Hold is how long existing flows to an unreachable peer are kept, to survive a restart of either end. 0 means a minute, less
	// than 0 none.
	Hold time.Duration
	// Sweep is the time between two looks at all flows. 0 means 5 s.
	Sweep time.Duration
	// Idle is how long a flow may be unused before it is removed. 0 means 5 min.
	Idle time.Duration
	// Log gets what is worth a line. Nil means silence.
	Log *slog.Logger
}

// withDefaults returns the configuration with the defaults filled in.
func (c Config) withDefaults() Config {
	c.Name = cmp.Or(c.Name, "datapath")
	c.Port = cmp.Or(c.Port, DefaultPort)
	c.MTU = cmp.Or(c.MTU, DefaultMTU)
	c.Readers = min(cmp.Or(c.Readers, runtime.GOMAXPROCS(0)), maxReaders)
	c.MaxFlows = cmp.Or(c.MaxFlows, defaultMaxFlows)
	c.Hold = max(cmp.Or(c.Hold, defaultHold), 0)
	c.Sweep = cmp.Or(c.Sweep, defaultSweep)
	c.Idle = cmp.Or(c.Idle, defaultIdle)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) check() error {
	switch {
	case !c.Self.IsValid():
		return fmt.Errorf("Config.Self is required: %w", peer.ErrInvalidName)
	case c.Forwarder == nil:
		return errors.New("Config.Forwarder is required")
	case c.Forwarder.Self() != c.Self:
		return fmt.Errorf("Config.Forwarder is that of %s, not of %s: %w", c.Forwarder.Self(), c.Self, peer.ErrInvalidName)
	case len(c.Name) > 15 || len(c.UserPort) > 15:
		return errors.New("a device's name has at most 15 bytes")
	case c.MTU < minMTU || c.MTU > maxMTU:
		return fmt.Errorf("MTU %d is not between %d and %d", c.MTU, minMTU, maxMTU)
	case c.Readers < 0:
		return errors.New("Config.Readers must not be negative")
	case c.MaxFlows < 0:
		return errors.New("Config.MaxFlows must not be negative")
	case c.Sweep < 0:
		return errors.New("Config.Sweep must not be negative")
	case c.Idle < 0:
		return errors.New("Config.Idle must not be negative")
	}
	return nil
}

package mesh

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	// DefaultPort is the TCP port of the mesh unless configured.
	DefaultPort = 6783
	// DefaultConnLimit is the connection limit unless configured.
	DefaultConnLimit = 200

	defaultGossipInterval = 30 * time.Second
	// minConnLimit: with fewer links a newcomer might find nobody to share.
	minConnLimit = 3
)

// Config configures a [Router]. New copies it.
type Config struct {
	// Name is our name. Required.
	Name peer.Name
	// UID tells this run from others. Zero means a random one.
	UID peer.UID
	// ShortID is the short id to claim first: the one of the last run, so that what kernels hold of it stays true. Zero means a
	// random one. [Router.Status] tells which one holds.
	ShortID peer.ShortID
	// Nickname is for people, the host's name for example. It may be empty.
	Nickname string
	// Listen is the address and TCP port to listen on. A specific address is also the source of outgoing connections. Port
	// 0 means any that is free. The unspecified address, such as [::], means all addresses. The invalid AddrPort, which is the
	// zero value, means not to listen; for sleeve.Listen it means all addresses.
	Listen netip.AddrPort
	// Password is the secret of the mesh. Empty means none: connections in the clear.
	Password []byte
	// Targets are the peers to connect to from the start, as "host" or "host:port". See [Router.Connect], and
	// [CheckTarget].
	Targets []string
	// DefaultPort is for targets without a port, and for peers known by their address only. Zero means 6783.
	DefaultPort uint16
	// ConnLimit is how many connections we want at most. Zero means 200, negative no limit. It shapes and does not refuse: a
	// newcomer always gets in, and some connection that the mesh can do without is closed. In a mesh with more peers than
	// that, a peer dials others only until it has a third of the limit, four at least, so that there is room. Less than 3
	// means 3. If there is no connection that the mesh can do without, as at the centre of a star of peers without discovery,
	// newcomers are still taken up to twice the limit, or 64 above it if that is more.
	ConnLimit int
	// NoDiscovery means to connect to targets only, not to peers that others tell of.
	NoDiscovery bool
	// TrustedSubnets are networks in which the data plane needs no encryption, if both ends agree.
	TrustedSubnets []netip.Prefix
	// MinProtocol is the lowest version of the protocol to speak. Zero means 1; 2 keeps a man in the middle from having the
	// introduction in the clear, and still meets every peer of Weave Net since 1.1.
	MinProtocol int
	// GossipInterval is how often each channel's full state goes to some neighbours. Zero means 30 s.
	GossipInterval time.Duration
	// NoDeltas turns off what only peers of this package speak, for tests and measurements of the old wire.
	NoDeltas bool
	// Switch is the data plane. Nil means none: connections count as established at once.
	Switch *overlay.Switch
	// Network is where connections come from. Nil means TCP.
	Network Network
	// Log gets what is worth a line. Nil means silence.
	Log *slog.Logger
}

// withDefaults returns a copy in which every zero value is replaced by what it means.
func (c Config) withDefaults() Config {
	c.Targets, c.TrustedSubnets = slices.Clone(c.Targets), slices.Clone(c.TrustedSubnets)
	c.Password = slices.Clone(c.Password)
	if c.UID == 0 {
		c.UID = peer.NewUID()
	}
	if c.ShortID == 0 {
		c.ShortID = peer.RandomShortID()
	}
	if c.DefaultPort == 0 {
		c.DefaultPort = DefaultPort
	}
	if c.ConnLimit == 0 {
		c.ConnLimit = DefaultConnLimit
	}
	if c.ConnLimit > 0 {
		c.ConnLimit = max(c.ConnLimit, minConnLimit)
	}
	if c.MinProtocol == 0 {
		c.MinProtocol = 1
	}
	if c.GossipInterval == 0 {
		c.GossipInterval = defaultGossipInterval
	}
	if c.Network == nil {
		c.Network = tcpNetwork{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c *Config) validate() error {
	var errs []error
	if !c.Name.IsValid() {
		errs = append(errs, fmt.Errorf("Config.Name is required: %w", peer.ErrInvalidName))
	}
	if c.ShortID > peer.MaxShortID {
		errs = append(errs, fmt.Errorf("%w %d", peer.ErrInvalidShortID, c.ShortID))
	}
	if len(c.Nickname) > maxNickname {
		errs = append(errs, fmt.Errorf("nickname of %d bytes, at most %d", len(c.Nickname), maxNickname))
	}
	if c.MinProtocol < 1 || c.MinProtocol > maxProtocol {
		errs = append(errs, fmt.Errorf("minimum protocol version %d, want 1 to %d", c.MinProtocol, maxProtocol))
	}
	if c.GossipInterval < 0 {
		errs = append(errs, fmt.Errorf("Config.GossipInterval must not be negative: %s", c.GossipInterval))
	}
	for _, subnet := range c.TrustedSubnets {
		if !subnet.IsValid() {
			errs = append(errs, errors.New("invalid trusted subnet"))
		}
	}
	for _, t := range c.Targets {
		if err := CheckTarget(t); err != nil {
			errs = append(errs, err)
		}
	}
	if err := joined(errs); err != nil {
		return fmt.Errorf("mesh: %w", err)
	}
	return nil
}

// trusts reports whether an address lies in a trusted subnet.
func (c *Config) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(c.TrustedSubnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

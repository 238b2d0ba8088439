package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/peer"
)

// Config is everything a daemon is told. The zero value runs a peer with the defaults of Weave Net that serves names, gives out
// no addresses, and has no control socket.
type Config struct {
	// Version is shown in reports.
	Version string

	// Name is the peer's name. Zero: the name used last time, else the bridge's hardware address if the bridge exists, else
	// one made from the host's hardware IDs, else a random one.
	Name peer.Name
	// Nickname is for people. Empty: the host name.
	Nickname string

	// Host is the address to listen on for peers. Invalid: all addresses.
	Host netip.Addr
	// Port is for TCP and UDP. 0: 6783.
	Port uint16
	// Peers are connected to from the start, each host or host:port.
	Peers []string
	// Password encrypts everything between peers. Empty: nothing is encrypted.
	Password []byte
	// TrustedSubnets are where frames need no encryption.
	TrustedSubnets []netip.Prefix
	// ConnLimit bounds the connections to peers, as in mesh.Config. 0: 200; negative: no limit.
	ConnLimit int
	// NoDiscovery keeps the peer from connecting to peers it learns of.
	NoDiscovery bool
	// MinProtocol is the lowest protocol version to accept, 1 or 2. 0: 1.
	MinProtocol int

	// Mode says what joins containers and overlays. Empty: ModeBridged, or ModeBridge where the kernel has no datapath.
	Mode Mode
	// Bridge is the name of the host's bridge, or datapath in ModeDirect. Empty: weave.
	Bridge string
	// MTU of the bridge and of containers, in bytes. 0: 1376.
	MTU int
	// Overlays are the names of the overlays to offer to peers. Empty: all there are.
	Overlays []string
	// NoTAP makes the daemon use a packet socket on a veth pair even where a TAP device can be had.
	NoTAP bool
	// Expose gives the host itself an address on the overlay, on the bridge. It needs Range.
	Expose bool
	// NoMasquerade leaves the addresses as they are of what crosses between the overlay and elsewhere, by an exposed host. Else it
	// gets the host's, so that neither side needs a route to the other.
	NoMasquerade bool

	// Range is what addresses are given from, the same on all peers. Zero: no addresses are given out.
	Range netip.Prefix
	// DefaultSubnet is what containers get addresses from that ask for none in particular. Zero: Range.
	DefaultSubnet netip.Prefix
	// Birth says how peers agree on their shares of the range the first time.
	Birth ipam.Birth

	// ReclaimAfter is after what time out of reach others take over the space of a peer; see package ipam. 0: its default;
	// less than 0: never.
	ReclaimAfter time.Duration

	// Grace is how long the addresses of a container stay with it after its interface is gone, so that one that is started again
	// has the same ones, and nobody gets what others still know somebody else by. 0: 10 s.
	Grace time.Duration

	// NoDNS turns the name service off.
	NoDNS bool
	// DNSDomain is where names of containers live. Empty: weave.local.
	DNSDomain string
	// DNSListen is where questions are answered. Empty: 0.0.0.0:53.
	DNSListen string
	// DNSTTL of answers. 0: one second; negative: answers are not to be kept.
	DNSTTL time.Duration
	// DNSForwardTimeout bounds the wait for other servers. 0: 5 s.
	DNSForwardTimeout time.Duration
	// ResolvConf names the servers for other names. Empty: they are not resolved.
	ResolvConf string
	// DNSAllow is from where other names may be asked for. Empty: from the host, from Range, and from addresses that are not of the
	// internet.
	DNSAllow []netip.Prefix

	// HTTPAddr is the control socket: a path of a Unix socket or host:port. Empty: none.
	HTTPAddr string
	// MetricsAddr, host:port, is where Prometheus finds the metrics, besides the control socket. Empty: nowhere.
	MetricsAddr string
	// DBPrefix is what the names of the daemon's files begin with; folders are made. Empty: nothing survives a restart.
	DBPrefix string

	// Log gets what happens. Nil: silence.
	Log *slog.Logger
}

// Mode says what joins containers and overlays on a host. Names are those of Weave Net.
type Mode string

// Modes.
const (
	// ModeBridge: a Linux bridge; all overlays work in user space.
	ModeBridge Mode = "bridge"
	// ModeBridged: a Linux bridge, of which a datapath in the kernel is a port.
	ModeBridged Mode = "bridged_fastdp"
	// ModeDirect: a datapath in the kernel, whose ports the containers are.
	ModeDirect Mode = "fastdp"
)

const (
	defaultPort   = 6783
	defaultBridge = "weave"
	// defaultMTU leaves room for the headers of every overlay on the smallest underlay that is common, 1460 bytes, with
	// encryption. It is what containers of Weave Net have too.
	defaultMTU = 1376
	minMTU     = 576
	// defaultGrace is what a container engine takes to start its containers again.
	defaultGrace = 10 * time.Second
	maxMTU       = 65535
)

// withDefaults returns the config with defaults filled in, or says what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.Nickname == "" {
		c.Nickname, _ = os.Hostname() // no nickname is fine as well
	}
	setDefault(&c.Port, defaultPort)
	setDefault(&c.Bridge, defaultBridge)
	setDefault(&c.MTU, defaultMTU)
	setDefault(&c.DefaultSubnet, c.Range)
	setDefault(&c.DNSDomain, "weave.local.")
	setDefault(&c.DNSListen, "0.0.0.0:53")
	setDefault(&c.DNSTTL, time.Second)
	setDefault(&c.Grace, defaultGrace)
	if !c.Host.IsValid() {
		c.Host = netip.IPv4Unspecified()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, c.validate()
}

func (c Config) validate() error {
	switch {
	case c.MTU < minMTU || c.MTU > maxMTU:
		return fmt.Errorf("MTU %d is not between %d and %d", c.MTU, minMTU, maxMTU)
	case c.Port == math.MaxUint16:
		return errors.New("--port must be below 65535: tunnels use the next port")
	case !slices.Contains([]Mode{"", ModeBridge, ModeBridged, ModeDirect}, c.Mode):
		return fmt.Errorf("mode %q: want %s, %s or %s", c.Mode, ModeBridge, ModeBridged, ModeDirect)
	case c.Grace < 0:
		return errors.New("--ipalloc-grace must not be negative")
	case c.Expose && !c.Range.IsValid():
		return errors.New("the host can have an address on the overlay only if there is a range to take it from")
	case !c.Range.IsValid() && c.DefaultSubnet.IsValid():
		return errors.New("a default subnet needs a range")
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// file returns the path of one of the daemon's files and makes its folder.
func (c Config) file(name string) (string, error) {
	path := c.DBPrefix + name
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("the folder for the daemon's files: %w", err)
	}
	return path, nil
}

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/examples/weaver/daemon"
	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/peer"
)

// passwordVariable holds the password if no flag does; a flag shows in the list of processes.
const passwordVariable = "WEAVE_PASSWORD"

// launchFlags are the flags of launch as typed; config makes sense of them. Names and defaults are those of Weave Net where
// it has them.
type launchFlags struct {
	name, nickname, host, password, logLevel string
	bridge, httpAddr, metricsAddr, dbPrefix  string
	ipallocInit, ipallocRange, ipallocSubnet string
	dnsDomain, dnsListen, resolvConf         string
	mode                                     string
	trusted, overlays, dnsAllow              []string
	port                                     uint16
	connLimit, minProtocol, mtu, dnsTTL      int
	noDiscovery, noDNS, noTAP                bool
	expose, noMasquerade                     bool
	dnsForwardTimeout, ipallocReclaim, grace time.Duration
}

func newLaunch() *cobra.Command {
	var f launchFlags
	cmd := &cobra.Command{
		Use:   "launch [flags] [PEER...]",
		Short: "Run the daemon in the foreground, connected to the given peers (host or host:port)",
		RunE: func(cmd *cobra.Command, peers []string) error {
			c, err := f.config(peers)
			if err != nil {
				return err
			}
			return daemon.Run(cmd.Context(), c)
		},
	}
	f.register(cmd)
	return cmd
}

// newReset has those flags of launch that say what is where.
func newReset() *cobra.Command {
	c := daemon.Config{}
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Remove what an ended daemon left on this host: interfaces, bridge, firewall rules, datapath and encryption; not its files",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return daemon.Reset(c) },
	}
	addPlaceFlags(cmd, &c.Port, &c.Bridge, &c.DBPrefix)
	cmd.Flags().StringVar(&c.HTTPAddr, "http-addr", api.DefaultSocket, "control socket, at which no daemon may answer; blank: do not look")
	return cmd
}

// addPlaceFlags adds the flags that say where on a host a daemon works.
func addPlaceFlags(cmd *cobra.Command, port *uint16, bridge, dbPrefix *string) {
	s := cmd.Flags()
	s.Uint16Var(port, "port", 6783, "TCP and UDP port for peers; UDP of the next one for tunnels")
	s.StringVar(bridge, "weave-bridge", "weave", "name of the host's bridge")
	s.StringVar(dbPrefix, "db-prefix", "/var/lib/weaver/", "what the names of the daemon's files begin with; blank: keep nothing")
}

func (f *launchFlags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	addPlaceFlags(cmd, &f.port, &f.bridge, &f.dbPrefix)
	s.StringVar(&f.name, "name", "", "name of this peer, like a MAC address (default: from the bridge, the last run, or the hardware)")
	s.StringVar(&f.nickname, "nickname", "", "nickname of this peer (default: the host name)")
	s.StringVar(&f.host, "host", "", "address to listen on for peers (default: all)")
	s.StringVar(&f.password, "password", "", "password shared by all peers, turns encryption on (default: $"+passwordVariable+")")
	s.StringSliceVar(&f.trusted, "trusted-subnets", nil, "subnets between which frames are not encrypted")
	s.IntVar(&f.connLimit, "conn-limit", 200, "connections to peers, 0 for no limit")
	s.BoolVar(&f.noDiscovery, "no-discovery", false, "do not connect to peers that are learned from others")
	s.IntVar(&f.minProtocol, "min-protocol-version", 1, "lowest protocol version to accept")
	s.StringVar(&f.logLevel, "log-level", "info", "debug, info, warning or error")

	s.StringVar(&f.mode, "mode", "", "bridge, bridged_fastdp or fastdp: what joins containers and overlays (default: bridged_fastdp if the kernel can)")
	s.StringSliceVar(&f.overlays, "overlays", nil, "overlays to offer to peers: fastdp2, fastdp, sleeve2, sleeve (default: all there are)")
	s.IntVar(&f.mtu, "mtu", 0, "MTU of bridge and containers in bytes, 0 for the default of 1376")
	s.BoolVar(&f.noTAP, "no-tap", false, "join the bridge with a packet socket even if there are TAP devices")
	s.BoolVar(&f.expose, "expose", false, "give the host itself an address on the overlay, and have it connect containers and the outside")
	s.BoolVar(&f.noMasquerade, "no-masquerade", false, "expose without rewriting addresses")

	s.StringVar(&f.ipallocRange, "ipalloc-range", "10.32.0.0/12", "range to give addresses from, the same on all peers; blank: none are given")
	s.StringVar(&f.ipallocSubnet, "ipalloc-default-subnet", "", "subnet for containers that ask for none (default: the range)")
	s.DurationVar(&f.ipallocReclaim, "ipalloc-reclaim-after", 0, "take over the space of peers out of reach for so long, at least 1m, longer than any partition, the same on all peers; 0: a day; -1s: never")
	s.DurationVar(&f.grace, "ipalloc-grace", 0, "how long a container that is gone keeps its addresses, for when it is started again; 0: 10s")
	s.StringVar(&f.ipallocInit, "ipalloc-init", "", "how the first division is agreed: consensus[=COUNT], seed=PEER,... or observer")

	s.BoolVar(&f.noDNS, "no-dns", false, "do not serve names")
	s.StringVar(&f.dnsDomain, "dns-domain", "weave.local.", "domain of containers")
	s.StringVar(&f.dnsListen, "dns-listen-address", "0.0.0.0:53", "address for DNS questions")
	s.IntVar(&f.dnsTTL, "dns-ttl", 1, "TTL of DNS answers in seconds")
	s.DurationVar(&f.dnsForwardTimeout, "dns-fallback-timeout", 5*time.Second, "how long to wait for other name servers")
	s.StringVar(&f.resolvConf, "resolv-conf", "", "file with the name servers for other names")
	s.StringSliceVar(&f.dnsAllow, "dns-allow", nil, "subnets from which other names may be asked for (default: this host, the range, and private addresses)")

	s.StringVar(&f.httpAddr, "http-addr", api.DefaultSocket, "control socket: a path, or host:port; blank: none")
	s.StringVar(&f.metricsAddr, "metrics-addr", "", "host:port for metrics; blank: only on the control socket")
}

// config checks the flags and makes the daemon's config.
func (f *launchFlags) config(peers []string) (c daemon.Config, err error) {
	c = daemon.Config{
		Version: version, Nickname: f.nickname, Port: f.port, Peers: peers, Password: []byte(f.password),
		ConnLimit: f.connLimit, NoDiscovery: f.noDiscovery, MinProtocol: f.minProtocol,
		Mode: daemon.Mode(f.mode), Overlays: f.overlays, Bridge: f.bridge, MTU: f.mtu, NoTAP: f.noTAP,
		Expose: f.expose, NoMasquerade: f.noMasquerade,
		NoDNS: f.noDNS, DNSDomain: f.dnsDomain, DNSListen: f.dnsListen, DNSTTL: time.Duration(f.dnsTTL) * time.Second,
		DNSForwardTimeout: f.dnsForwardTimeout, ResolvConf: f.resolvConf,
		ReclaimAfter: f.ipallocReclaim, Grace: f.grace, HTTPAddr: f.httpAddr, MetricsAddr: f.metricsAddr, DBPrefix: f.dbPrefix,
	}
	if f.dnsTTL == 0 {
		c.DNSTTL = -1 // 0 means the default there
	}
	if f.connLimit == 0 {
		c.ConnLimit = -1 // likewise
	}
	if len(c.Password) == 0 {
		c.Password = []byte(os.Getenv(passwordVariable))
	}
	var errs []error
	check := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if f.name != "" {
		c.Name, err = peer.Parse(f.name)
		check("name", err)
	}
	if f.host != "" {
		c.Host, err = netip.ParseAddr(f.host)
		check("host", err)
	}
	c.Range, err = parseSubnet(f.ipallocRange)
	check("ipalloc-range", err)
	c.DefaultSubnet, err = parseSubnet(f.ipallocSubnet)
	check("ipalloc-default-subnet", err)
	c.Birth, err = parseBirth(f.ipallocInit)
	check("ipalloc-init", err)
	for _, s := range f.trusted {
		p, err := netip.ParsePrefix(s)
		check("trusted-subnets", err)
		c.TrustedSubnets = append(c.TrustedSubnets, p)
	}
	for _, s := range f.dnsAllow {
		p, err := netip.ParsePrefix(s)
		check("dns-allow", err)
		c.DNSAllow = append(c.DNSAllow, p)
	}
	c.Log, err = newLogger(f.logLevel)
	check("log-level", err)
	for _, p := range peers {
		if err := mesh.CheckTarget(p); err != nil {
			errs = append(errs, err)
		}
	}
	return c, errors.Join(errs...)
}

// parseSubnet reads a CIDR without host bits; blank is none.
func parseSubnet(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is no CIDR such as 10.32.0.0/12", s)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%s has bits behind its prefix; did you mean %s?", p, p.Masked())
	}
	return p, nil
}

// parseBirth reads consensus, consensus=N, seed=name,... or observer; blank is consensus.
func parseBirth(s string) (ipam.Birth, error) {
	mode, value, given := strings.Cut(s, "=")
	switch {
	case s == "" || s == "consensus":
		return ipam.Consensus(0), nil
	case mode == "consensus":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return ipam.Birth{}, fmt.Errorf("consensus=%s: want a number of peers", value)
		}
		return ipam.Consensus(n), nil
	case mode == "seed" && given:
		var names []peer.Name
		for text := range strings.SplitSeq(value, ",") {
			n, err := peer.Parse(text)
			if err != nil {
				return ipam.Birth{}, err
			}
			names = append(names, n)
		}
		return ipam.Seed(names...), nil
	case s == "observer":
		return ipam.Observer(), nil
	}
	return ipam.Birth{}, fmt.Errorf("%q is none of consensus[=COUNT], seed=PEER,... and observer", s)
}

func newLogger(level string) (*slog.Logger, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "error": slog.LevelError}
	l, ok := levels[level]
	if !ok {
		return nil, fmt.Errorf("%q is none of debug, info, warning and error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}

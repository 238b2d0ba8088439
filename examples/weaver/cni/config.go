package cni

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overweave/overweave/examples/weaver/api"
)

// network is the part of a configuration that says which network it is about, and where its daemon is. It is all that is needed
// to take a container off, so that what is wrong with the rest does not keep anybody from that.
type network struct {
	Name   string `json:"name"`
	Socket string `json:"socket"` // absolute path, or host:port
}

func parseNetwork(data []byte) (n network, err error) {
	if err := json.Unmarshal(data, &n); err != nil {
		return n, invalid("%v", err)
	}
	if n.Socket == "" {
		n.Socket = api.DefaultSocket
	}
	if _, _, err := net.SplitHostPort(n.Socket); err != nil && !filepath.IsAbs(n.Socket) {
		return n, invalid("socket: %q is no absolute path", n.Socket)
	}
	return n, nil
}

func (n network) client() *api.Client { return api.NewClient(n.Socket) }

// prefix is what the IDs of the network's attachments begin with. Neither name nor container have a slash.
func (n network) prefix() string { return "cni:" + n.Name + "/" }

// id names an attachment at the daemon.
func (n network) id(container, iface string) string { return n.prefix() + container + "/" + iface }

// config is a configuration as a runtime hands it over. Keys that are not here are those of others.
type config struct {
	network      `json:"-"`
	CNIVersion   string `json:"cniVersion"`
	DefaultRoute *bool  `json:"defaultRoute"` // true if it is not there
	IPAM         struct {
		Type   string `json:"type"`
		Subnet string `json:"subnet"`
	} `json:"ipam"`
	DNS     types.DNS `json:"dns"`
	Runtime struct {
		IPs []string `json:"ips"`
	} `json:"runtimeConfig"`
	Previous json.RawMessage `json:"prevResult"`
}

func parseConfig(data []byte) (c config, err error) {
	if c.network, err = parseNetwork(data); err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, invalid("%v", err)
	}
	return c, nil
}

// wantsDefaultRoute reports whether containers of this network send by it what they have no other route for.
func (c *config) wantsDefaultRoute() bool { return c.DefaultRoute == nil || *c.DefaultRoute }

// request returns what the configuration says of an attachment.
func (c *config) request() (r api.AttachRequest, err error) {
	r.DefaultRoute = c.wantsDefaultRoute()
	r.NoMulticastRoute = true // as with Weave Net's plugin: it follows the default route
	if c.IPAM.Type != "" && c.IPAM.Type != "weaver" {
		return r, invalid("ipam.type: %q is not asked for addresses, weaver gives them itself", c.IPAM.Type)
	}
	if r.Subnet, err = parseSubnet(c.IPAM.Subnet); err != nil {
		return r, err
	}
	for _, s := range c.Runtime.IPs {
		addr, err := parseWanted(s, r.Subnet)
		if err != nil {
			return r, err
		}
		r.Addresses = append(r.Addresses, addr)
	}
	return r, nil
}

// parseSubnet reads a CIDR; blank is none.
func parseSubnet(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is4():
		return p, invalid("ipam.subnet: %q is no CIDR of IPv4 such as 10.32.1.0/24", s)
	case p != p.Masked():
		return p, invalid("ipam.subnet: %s has bits behind its prefix; did you mean %s?", p, p.Masked())
	}
	return p, nil
}

// parseWanted reads an address that a container is to have. Without the length of its prefix it has that of the subnet.
func parseWanted(s string, subnet netip.Prefix) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if addr, bare := netip.ParseAddr(s); bare == nil && subnet.Contains(addr) {
		p, err = netip.PrefixFrom(addr, subnet.Bits()), nil
	}
	if err != nil || !p.Addr().Is4() {
		return p, invalid("runtimeConfig.ips: %q is no IPv4 address with the length of its prefix, such as 10.32.1.5/24, "+
			"and none of ipam.subnet", s)
	}
	return p, nil
}

// previous returns what earlier plugins of a chain have done, or all of them at an earlier call; nil if there is nothing.
func (c *config) previous() (*types100.Result, error) {
	if len(c.Previous) == 0 || string(c.Previous) == "null" {
		return nil, nil
	}
	// All versions from 0.3.0 on are written alike, as far as they say the same.
	r := &types100.Result{}
	if err := json.Unmarshal(c.Previous, r); err != nil {
		return nil, invalid("prevResult: %v", err)
	}
	if slices.Contains(r.Interfaces, nil) || slices.Contains(r.IPs, nil) || slices.Contains(r.Routes, nil) {
		return nil, invalid("prevResult: an element of a list is null")
	}
	r.CNIVersion = types100.ImplementedSpecVersion
	return r, nil
}

// invalid says what is wrong with a configuration.
func invalid(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "invalid network configuration", fmt.Sprintf(format, args...))
}

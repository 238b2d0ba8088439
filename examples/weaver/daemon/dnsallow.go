package daemon

import (
	"net"
	"net/netip"
	"slices"
)

// localRanges are those that nobody has on the internet: of IPv4 RFC 1122, 1918, 3927 and 6598, of IPv6 RFC 4193 and 4291.
var localRanges = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

// dnsClients returns whose questions about names outside our domain are passed on: if nothing is said, those of neighbours,
// containers and the host itself. A resolver that is open to the internet is misused to flood others.
func (d *daemon) dnsClients() []netip.Prefix {
	if len(d.cfg.DNSAllow) > 0 {
		return d.cfg.DNSAllow
	}
	list := slices.Clone(localRanges)
	if d.cfg.Range.IsValid() {
		list = append(list, d.cfg.Range)
	}
	own, _ := net.InterfaceAddrs() // without them, the host's own questions to its public address are refused
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		}
	}
	return list
}

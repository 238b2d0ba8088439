package cni

import (
	"errors"
	"net/http"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/ipam"
)

var goodConfigs = map[string]api.AttachRequest{
	`{"name":"n"}`: {DefaultRoute: true},
	`{"name":"n","type":"weaver","hairpinMode":true,"ipam":{"type":"weaver","ranges":[]},"defaultRoute":true}`: {DefaultRoute: true},
	`{"name":"n","defaultRoute":false,"ipam":{"subnet":"10.32.1.0/24"}}`:                                       {Subnet: netip.MustParsePrefix("10.32.1.0/24")},
	`{"name":"n","socket":"127.0.0.1:6784","runtimeConfig":{"ips":["10.32.1.5/24"],"portMappings":[{}]}}`: {
		DefaultRoute: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.1.5/24")},
	},
	`{"name":"n","ipam":{"subnet":"10.32.1.0/24"},"runtimeConfig":{"ips":["10.32.1.5","10.32.2.5/12"]}}`: {
		DefaultRoute: true, Subnet: netip.MustParsePrefix("10.32.1.0/24"),
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.1.5/24"), netip.MustParsePrefix("10.32.2.5/12")},
	},
}

var badConfigs = map[string]string{
	`{"name":"n","socket":"weaver.sock"}`:                                         `socket: "weaver.sock" is no absolute path`,
	`{"name":"n","socket":5}`:                                                     "socket",
	`{"name":"n","defaultRoute":"yes"}`:                                           "defaultRoute",
	`{"name":"n","ipam":"10.32.1.0/24"}`:                                          "ipam",
	`{"name":"n","ipam":{"type":"host-local"}}`:                                   `ipam.type: "host-local" is not asked`,
	`{"name":"n","ipam":{"subnet":"10.32.1.0"}}`:                                  `ipam.subnet: "10.32.1.0" is no CIDR`,
	`{"name":"n","ipam":{"subnet":"10.32.1.5/24"}}`:                               "did you mean 10.32.1.0/24?",
	`{"name":"n","ipam":{"subnet":"fd00::/64"}}`:                                  `ipam.subnet: "fd00::/64" is no CIDR of IPv4`,
	`{"name":"n","runtimeConfig":{"ips":["10.32.1.5"]}}`:                          `runtimeConfig.ips: "10.32.1.5" is no IPv4 address with`,
	`{"name":"n","runtimeConfig":{"ips":["fd00::5/64"]}}`:                         `runtimeConfig.ips: "fd00::5/64" is no`,
	`{"name":"n","runtimeConfig":{"ips":["web"]}}`:                                `runtimeConfig.ips: "web" is no`,
	`{"name":"n","runtimeConfig":{"ips":"10.32.1.5/24"}}`:                         "ips",
	`{"name":"n","dns":{"nameservers":"10.32.0.1"}}`:                              "nameservers",
	`{"name":"n","cniVersion":"1.1.0","prevResult":[]}`:                           "prevResult",
	`{"name":"n","cniVersion":"0.4.0","prevResult":{"ips":[{"address":"nine"}]}}`: "prevResult",
}

// understand does all with a configuration that needs no daemon.
func understand(data string) (c config, r api.AttachRequest, told *types100.Result, err error) {
	if c, err = parseConfig([]byte(data)); err != nil {
		return c, r, nil, err
	}
	if r, err = c.request(); err != nil {
		return c, r, nil, err
	}
	told, err = c.previous()
	return c, r, told, err
}

func TestConfig(t *testing.T) {
	for data, want := range goodConfigs {
		_, got, _, err := understand(data)
		require.NoError(t, err, data)
		want.NoMulticastRoute = true
		require.Equal(t, want, got, data)
	}
	for data, says := range badConfigs {
		_, _, _, err := understand(data)
		var e *types.Error
		require.ErrorAs(t, err, &e, data)
		require.Equal(t, types.ErrInvalidNetworkConfig, e.Code, data)
		require.ErrorContains(t, err, says)
	}
	c, _, _, err := understand(`{"name":"n"}`)
	require.NoError(t, err)
	require.Equal(t, api.DefaultSocket, c.Socket)
	require.Equal(t, "cni:n/c/eth0", c.id("c", "eth0"))
}

// TestNetwork: what is wrong with other keys keeps no container from being taken off.
func TestNetwork(t *testing.T) {
	n, err := parseNetwork([]byte(`{"name":"n","socket":"/run/x","ipam":5,"defaultRoute":"yes"}`))
	require.NoError(t, err)
	require.Equal(t, network{Name: "n", Socket: "/run/x"}, n)
}

// FuzzConfig: what a configuration asks for is either an error or something that a daemon can be asked for, and an earlier result
// one that can be compared with, and added to.
func FuzzConfig(f *testing.F) {
	for data := range goodConfigs {
		f.Add(data)
	}
	for data := range badConfigs {
		f.Add(data)
	}
	f.Add(`{"cniVersion":"0.4.0","prevResult":{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.1/8","interface":0}],"interfaces":[{"name":"eth0"}]}}`)
	f.Add(`{"cniVersion":"0.4.0","prevResult":{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.1/8"}],"interfaces":[null]}}`)
	f.Fuzz(func(t *testing.T, data string) {
		c, r, told, err := understand(data)
		if err != nil {
			var e *types.Error
			require.ErrorAs(t, err, &e)
			return
		}
		require.NotEmpty(t, c.Socket)
		require.Equal(t, r.Subnet, r.Subnet.Masked())
		for _, addr := range r.Addresses {
			require.True(t, addr.IsValid() && addr.Addr().Is4(), addr)
		}
		if told != nil {
			att := api.Attachment{Interface: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}
			_, _ = expected(told, att, "eth0", "")
			describe(told, att, "")
			_, err := told.GetAsVersion("0.3.1")
			require.NoError(t, err)
		}
	})
}

// TestChain: what earlier plugins have done stays in the result, and ours refers to our interface.
func TestChain(t *testing.T) {
	_, _, r, err := understand(`{"name":"n","cniVersion":"0.4.0","prevResult":{"cniVersion":"0.4.0","interfaces":[{"name":"lo","sandbox":"/ns"}],
		"ips":[{"version":"4","address":"127.0.0.1/8","interface":0}],"dns":{"domain":"x"}}}`)
	require.NoError(t, err)
	addr := netip.MustParsePrefix("10.32.0.5/12")
	describe(r, api.Attachment{Port: "p", Interface: "eth0", MAC: "02:00:00:00:00:01", Addresses: []netip.Prefix{addr}}, "/ns")
	require.Equal(t, []string{"lo", "p", "eth0"}, []string{r.Interfaces[0].Name, r.Interfaces[1].Name, r.Interfaces[2].Name})
	require.Equal(t, []int{0, 2}, []int{*r.IPs[0].Interface, *r.IPs[1].Interface})
	require.Equal(t, addr.String(), r.IPs[1].Address.String())
	require.Empty(t, r.Routes)
	require.Equal(t, "x", r.DNS.Domain)
	_, err = r.GetAsVersion("0.3.0")
	require.NoError(t, err)
}

// TestFailure: runtimes repeat what passes by itself.
func TestFailure(t *testing.T) {
	for code, err := range map[uint]error{
		types.ErrTryAgainLater:        errors.New("connection refused"),
		types.ErrInvalidNetworkConfig: &api.Error{Status: http.StatusUnprocessableEntity},
		types.ErrInternal:             &api.Error{Status: http.StatusConflict},
	} {
		var e *types.Error
		require.ErrorAs(t, network{}.failure(err), &e)
		require.Equal(t, code, e.Code)
	}
	var e *types.Error
	require.ErrorAs(t, network{}.failure(&api.Error{Status: http.StatusServiceUnavailable}), &e)
	require.Equal(t, types.ErrTryAgainLater, e.Code)
}

// TestHindrance: a new overlay is ready, although nobody has an address; else no runtime would ask for the first.
func TestHindrance(t *testing.T) {
	host := api.BridgeStatus{Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")}}
	ready := &ipam.Status{State: "ready", FreeIPs: 5}
	for _, tt := range []struct {
		report       api.Report
		defaultRoute bool
		says         string
	}{
		{api.Report{}, false, "--ipalloc-range"},
		{api.Report{IPAM: ready, Bridge: host}, true, ""},
		{api.Report{IPAM: ready}, false, ""},
		{api.Report{IPAM: ready}, true, "--expose"},
		{api.Report{IPAM: ready, Bridge: api.BridgeStatus{Trouble: "no bridge"}}, true, "no bridge"},
		{api.Report{IPAM: &ipam.Status{State: "idle", NotGiving: "no ring"}}, false, ""},
		{api.Report{IPAM: &ipam.Status{State: "idle", NotGiving: "given away", Released: true}}, false, "given away"},
		{api.Report{IPAM: &ipam.Status{State: "awaiting consensus", NotGiving: "no ring"}}, false, "no ring"},
		{api.Report{IPAM: &ipam.Status{State: "waiting", PendingAllocates: []string{"x"}}}, false, "waiting"},
		{api.Report{IPAM: &ipam.Status{State: "ready", PendingAllocates: []string{"x"}, FreeIPs: 1}}, false, ""},
	} {
		why := hindrance(tt.report, tt.defaultRoute)
		if tt.says == "" {
			require.Empty(t, why)
		}
		require.Contains(t, why, tt.says)
	}
}

// TestExpected: a result that is not that of ours, or that the daemon does not stand by, is told.
func TestExpected(t *testing.T) {
	att := api.Attachment{
		ID: "cni:n/c/eth0", Interface: "eth0", Port: "p", MAC: "02:00:00:00:00:01",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.5/12")}, Gateway: netip.MustParseAddr("10.32.0.1"),
	}
	told := &types100.Result{}
	describe(told, att, "/ns")
	want, err := expected(told, att, "eth0", "/ns")
	require.NoError(t, err)
	require.Equal(t, state{mac: att.MAC, addrs: att.Addresses, gateways: []netip.Addr{att.Gateway}}, want)
	_, err = expected(told, att, "eth1", "/ns")
	require.ErrorContains(t, err, "no interface eth1")
	att.Addresses = nil
	_, err = expected(told, att, "eth0", "/ns")
	require.ErrorContains(t, err, "has not been given the address 10.32.0.5/12")
}

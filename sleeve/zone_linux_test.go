package sleeve_test

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
)

// TestLinkLocal carries frames between link-local addresses, which mean nothing without their zone.
func TestLinkLocal(t *testing.T) {
	h := newHosts6(t)
	for name, overlayOf := range map[string]func(overlaytest.End) overlaytest.End{"sleeve": func(e overlaytest.End) overlaytest.End { return e }, "sleeve2": second} {
		t.Run(name, func(t *testing.T) {
			a := overlayOf(end(t, h.a, overlaytest.End{Self: nameA, Addr: netip.AddrPortFrom(linkLocal(t, h.a), 6783)}))
			b := overlayOf(end(t, h.r, overlaytest.End{Self: nameB, Addr: netip.AddrPortFrom(linkLocal(t, h.r), 6783)}))
			local := b.Addr
			b.Addr = netip.AddrPortFrom(local.Addr().WithZone(a.Addr.Addr().Zone()), local.Port()) // as A has it, which dials
			c := overlaytest.Connect(a, b, 99, testKey)
			c.B.Params.Local = local
			require.NoError(t, c.Up())
			t.Cleanup(c.Close)
			require.Equal(t, overlay.Established, (<-c.A.Events).Kind)
			require.Equal(t, overlay.Established, (<-c.B.Events).Kind)
			require.Equal(t, local.Addr().Zone(), c.B.Link.Status().Remote.Addr().Zone())
		})
	}
}

// linkLocal returns the link-local address of a host on its way to A, with its zone.
func linkLocal(t *testing.T, h *lab.Host) (found netip.Addr) {
	t.Helper()
	require.NoError(t, h.Do(func() error {
		global := netip.MustParsePrefix("fd01::/64")
		all, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		for _, addr := range all {
			if !global.Contains(netip.AddrFrom16([16]byte(addr.IP.To16()))) {
				continue
			}
			for _, local := range all {
				if local.LinkIndex == addr.LinkIndex && local.IP.IsLinkLocalUnicast() {
					found = netip.AddrFrom16([16]byte(local.IP.To16())).WithZone(strconv.Itoa(local.LinkIndex))
				}
			}
		}
		return err
	}))
	require.True(t, found.IsValid())
	return found
}

package overlay_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
)

func hopTo(neighbours ...peer.Name) overlaytest.Routes {
	r := overlaytest.Routes{Hops: map[peer.Name]peer.Name{}, Floods: map[peer.Name][]peer.Name{}}
	for _, n := range neighbours {
		r.Hops[n] = n
	}
	return r
}

// starRoutes are those of A with neighbours B and C, and D behind C.
func starRoutes() overlaytest.Routes {
	r := hopTo(peerB, peerC)
	r.Hops[peerD] = peerC
	r.Floods = map[peer.Name][]peer.Name{
		peerA: {peerB, peerC},
		peerB: {peerC},
		peerC: {peerB},
		peerD: {peerB},
	}
	return r
}

func mac(s string) overlay.MAC {
	m, err := overlay.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

var (
	now     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	station = mac("52:54:00:00:00:11")
	another = mac("52:54:00:00:00:12")
	distant = mac("52:54:00:00:00:22")
	unknown = mac("52:54:00:00:00:99")
	group   = mac("01:00:5e:00:00:01")
)

func TestCaptured(t *testing.T) {
	const self = peerA
	flood := overlay.Decision{Source: self, Flood: []peer.Name{peerB, peerC}}
	for name, c := range map[string]struct {
		dst, src overlay.MAC
		routes   overlay.Routes
		want     overlay.Decision
	}{
		"to a station of this host": {dst: another, src: station, want: overlay.Decision{Drop: overlay.DropLocal}},
		"to one at a neighbour":     {dst: distant, src: station, want: overlay.Decision{Source: self, Hop: peerC, Dst: peerD}},
		"to nobody known":           {dst: unknown, src: station, want: flood},
		"to a group":                {dst: group, src: station, want: flood},
		"from a group":              {dst: unknown, src: group, want: flood},
		"to all bridges":            {dst: mac("01:80:c2:00:00:00"), src: station, want: overlay.Decision{Drop: overlay.DropSpanning}},
		"from a station elsewhere":  {dst: unknown, src: distant, want: overlay.Decision{Drop: overlay.DropForeign}},
		"no route":                  {dst: distant, src: station, routes: hopTo(), want: overlay.Decision{Drop: overlay.DropNoRoute}},
		"no neighbour":              {dst: unknown, src: station, routes: hopTo(), want: overlay.Decision{Source: self, Drop: overlay.DropNobody}},
	} {
		t.Run(name, func(t *testing.T) {
			f := known()
			if c.routes != nil {
				f.SetRoutes(c.routes)
			}
			require.Equal(t, c.want, f.Captured(now, c.dst, c.src))
		})
	}
}

func TestReceived(t *testing.T) {
	inject := overlay.Decision{Local: true, Source: peerB}
	injectAndFlood := overlay.Decision{Local: true, Source: peerB, Flood: []peer.Name{peerC}}
	for name, c := range map[string]struct {
		from, to peer.Name
		dst      overlay.MAC
		routes   overlay.Routes
		want     overlay.Decision
	}{
		"to a station here":   {from: peerB, to: peerA, dst: station, want: inject},
		"to a group":          {from: peerB, to: peerA, dst: group, want: injectAndFlood},
		"to nobody known":     {from: peerB, to: peerA, dst: unknown, want: injectAndFlood},
		"to one elsewhere":    {from: peerB, to: peerA, dst: distant, want: injectAndFlood},
		"end of the tree":     {from: peerB, to: peerA, dst: group, routes: hopTo(), want: inject},
		"through this peer":   {from: peerB, to: peerD, dst: station, want: overlay.Decision{Source: peerB, Hop: peerC, Dst: peerD}},
		"through, no route":   {from: peerB, to: peerD, dst: station, routes: hopTo(), want: overlay.Decision{Drop: overlay.DropNoRoute}},
		"with nobody's name":  {from: peerB, to: 0, dst: station, want: overlay.Decision{Drop: overlay.DropNoRoute}},
		"from nobody we know": {from: 0x77, to: peerA, dst: group, want: overlay.Decision{Local: true, Source: 0x77}},
		"from us":             {from: peerA, to: peerA, dst: station, want: overlay.Decision{Drop: overlay.DropOwn}},
		"from us, through us": {from: peerA, to: peerD, dst: distant, want: overlay.Decision{Drop: overlay.DropOwn}},
	} {
		t.Run(name, func(t *testing.T) {
			f := known()
			if c.routes != nil {
				f.SetRoutes(c.routes)
			}
			fresh := mac("52:54:00:00:00:77")
			require.Equal(t, c.want, f.Received(now, c.from, c.to, c.dst, fresh))
			at := where(f, fresh)
			if c.to == peerA && c.from != peerA {
				require.Equal(t, c.from, at)
			} else {
				require.Zero(t, at, "relays learn nothing, and nobody learns from us about us")
			}
		})
	}
}

// known returns a forwarder that knows two stations here and one at D.
func known() *overlay.Forwarder {
	f := overlay.NewForwarder(peerA)
	f.Captured(now, group, station)
	f.Captured(now, group, another)
	f.Received(now, peerD, peerA, group, distant)
	f.SetRoutes(starRoutes())
	return f
}

func where(f *overlay.Forwarder, m overlay.MAC) peer.Name {
	for _, e := range f.MACs() {
		if e.MAC == m {
			return e.Peer
		}
	}
	return 0
}

func TestStationsMove(t *testing.T) {
	f := known()
	require.Equal(t, overlay.DropForeign, f.Captured(now, group, distant).Drop, "not from a peer to here")
	f.Received(now, peerB, peerA, group, station)
	require.Equal(t, peerB, where(f, station), "from here to a peer")
	require.Equal(t, overlay.DropForeign, f.Captured(now, group, station).Drop)
	f.ForgetPeer(peerB)
	require.Equal(t, overlay.DropNone, f.Captured(now, group, station).Drop)
	require.Equal(t, peerA, where(f, station))
}

func TestForwarderWithoutRoutes(t *testing.T) {
	f := overlay.NewForwarder(peerA)
	require.Equal(t, overlay.DropNobody, f.Captured(now, unknown, station).Drop)
	require.Equal(t, overlay.DropNoRoute, f.Received(now, peerB, peerC, unknown, distant).Drop)
}

func TestDropReasonNames(t *testing.T) {
	seen := map[string]bool{}
	for d := overlay.DropNone; d <= overlay.DropOwn; d++ {
		require.NotEmpty(t, d.String())
		require.False(t, seen[d.String()])
		seen[d.String()] = true
	}
}

func TestMACText(t *testing.T) {
	for _, s := range []string{"", "52:54", "52:54:00:00:00:11:22:33", "zz:54:00:00:00:11"} {
		_, err := overlay.ParseMAC(s)
		require.Error(t, err, "%q", s)
	}
	require.Equal(t, "52:54:00:00:00:11", station.String())
	text, err := station.MarshalText()
	require.NoError(t, err)
	require.Equal(t, "52:54:00:00:00:11", string(text))
	require.True(t, group.IsGroup())
	require.False(t, station.IsGroup())
}

package overlay

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// quiet returns the groups of a host that has settled, whose next general query is a while away, and the time.
func quiet(t *testing.T) (*localGroups, time.Time) {
	g := &localGroups{}
	g.start(newQuerier(here), epoch, true)
	g.tend(epoch)
	now := epoch.Add(startupInterval)
	g.tend(now)
	a, due := g.announce(now)
	require.True(t, due)
	require.Equal(t, Announcement{Version: uint64(now.UnixMilli())}, a)
	return g, now
}

func (g *localGroups) hears(now time.Time, frame []byte) bool {
	m, ok := parseMembership(frame)
	if !ok {
		panic("no message")
	}
	return g.snoop(now, m)
}

// listed is what a host would announce, versions apart.
func listed(g *localGroups, now time.Time) (out []string) {
	a := g.current(now)
	if a.All {
		out = append(out, "all")
	}
	for _, m := range a.Groups {
		out = append(out, m.String())
	}
	return out
}

const snooped = "01:00:5e:01:02:03" // group of linuxFrames

func TestGroupsAge(t *testing.T) {
	for _, join := range []string{"IGMPv1 join", "IGMPv2 join", "IGMPv3 join"} {
		g, now := quiet(t)
		require.True(t, g.hears(now, linuxFrame(join)))
		require.False(t, g.hears(now.Add(time.Second), linuxFrame(join)), "nothing new")
		end := now.Add(time.Second + 260*time.Second)
		g.tend(end.Add(-1))
		require.Equal(t, []string{snooped}, listed(g, end))
		g.tend(end)
		require.Empty(t, listed(g, end))
	}
}

func TestGroupsEndWhenLeft(t *testing.T) {
	for join, leave := range map[string]string{
		"IGMPv2 join": "IGMPv2 leave", "IGMPv3 join": "IGMPv3 leave", "MLDv1 join": "MLDv1 leave", "MLDv2 join": "MLDv2 leave",
	} {
		g, now := quiet(t)
		require.False(t, g.hears(now, linuxFrame(leave)), "it is no member")
		g.hears(now, linuxFrame(join))
		before := listed(g, now)
		require.True(t, g.hears(now, linuxFrame(leave)))
		asked := g.tend(now)
		require.Len(t, asked, 1)
		require.False(t, g.hears(now, linuxFrame(leave)), "said twice")
		require.Empty(t, g.tend(now.Add(lastMemberQuery-1)))
		require.Len(t, g.tend(now.Add(lastMemberQuery)), 1)
		require.False(t, g.hears(now.Add(lastMemberQuery), linuxFrame(leave)), "and again")
		require.Empty(t, g.tend(now.Add(3*lastMemberQuery)))
		require.Equal(t, before, listed(g, now))
		m, _ := parseMembership(asked[0])
		require.Equal(t, 1000, map[bool]int{false: int(m.body[1]) * 100, true: int(m.body[4])<<8 | int(m.body[5])}[m.v6], "milliseconds")

		g.tend(now.Add(leaveAge))
		require.Empty(t, listed(g, now))

		g.hears(now, linuxFrame(join))
		g.hears(now, linuxFrame(leave))
		g.tend(now)
		g.hears(now.Add(time.Second/2), linuxFrame(join)) // somebody is left
		require.Empty(t, g.tend(now.Add(lastMemberQuery)))
		g.tend(now.Add(250 * time.Second))
		require.Equal(t, before, listed(g, now))
	}
}

// TestGroupsShareAddress: two groups whose frames look alike end apart.
func TestGroupsShareAddress(t *testing.T) {
	g, now := quiet(t)
	g.hears(now, report(false, record(toExclude, "239.1.2.3", 0, 0), record(toExclude, "239.129.2.3", 0, 0)))
	require.Equal(t, []string{snooped}, listed(g, now))
	g.hears(now, linuxFrame("IGMPv2 leave"))
	g.tend(now.Add(leaveAge))
	require.Equal(t, []string{snooped}, listed(g, now))
}

func TestGroupsAreBounded(t *testing.T) {
	g, now := quiet(t)
	for i := range MaxGroups + 1 {
		group := fmt.Sprintf("239.1.%d.%d", i>>8, i&255)
		g.hears(now.Add(time.Duration(i)), report(false, record(toExclude, group, 0, 0)))
	}
	a := g.current(now)
	require.Len(t, a.Groups, MaxGroups)
	require.True(t, a.All, "it cannot say all it has")
	later := now.Add(membershipAge + MaxGroups)
	g.tend(later)
	require.Empty(t, listed(g, later))
}

func TestRouterGetsAll(t *testing.T) {
	other := querier{mac: testMAC(9), v6: netip.MustParseAddr("fe80::9")}
	asks := map[string][]byte{"MLD": other.mld(netip.IPv6Unspecified()), "IGMP": routerQuery()}
	for name, frame := range asks {
		g, now := quiet(t)
		require.True(t, g.hears(now, frame), name)
		require.False(t, g.hears(now, frame), name)
		require.Equal(t, []string{"all"}, listed(g, now.Add(255*time.Second-1)))
		require.Empty(t, listed(g, now.Add(255*time.Second)))
	}
	g, now := quiet(t)
	for _, frame := range append(g.querier.general(), other.igmp(netip.IPv4Unspecified())) {
		require.False(t, g.hears(now, frame), "our own, or another switch's")
	}
	require.Empty(t, listed(g, now))
}

// routerQuery is a general query of IGMP from 10.0.0.1.
func routerQuery() []byte {
	q := newQuerier(there).igmp(netip.IPv4Unspecified())
	copy(q[14+12:], []byte{10, 0, 0, 1})
	putHeaderChecksum(q[14:38])
	return q
}

func TestQuerySchedule(t *testing.T) {
	var g localGroups
	g.start(newQuerier(here), epoch, true)
	var at []time.Duration
	for now := epoch; now.Before(epoch.Add(300 * time.Second)); now = now.Add(250 * time.Millisecond) {
		switch len(g.tend(now)) {
		case 0:
		case 2:
			at = append(at, now.Sub(epoch))
		default:
			t.Fatal("not one for each protocol")
		}
	}
	start := 31250 * time.Millisecond
	require.Equal(t, []time.Duration{0, start, start + 125*time.Second, start + 250*time.Second}, at)

	g.start(newQuerier(here), epoch, false)
	require.Empty(t, g.tend(epoch), "there is nobody to ask")
	require.Empty(t, listed(&g, epoch), "and nothing to wait for")
}

func TestAnnouncing(t *testing.T) {
	var g localGroups
	g.start(newQuerier(here), epoch, true)
	say := func(now time.Time) string {
		a, due := g.announce(now)
		if !due {
			return ""
		}
		return fmt.Sprint(a.All, len(a.Groups), " ", int64(a.Version)-epoch.UnixMilli())
	}
	require.Equal(t, "true 0 0", say(epoch), "all, until there was time to answer")
	require.Empty(t, say(epoch))
	g.hears(epoch, linuxFrame("IGMPv2 join"))
	require.Equal(t, "true 1 1", say(epoch), "versions grow though time does not")
	require.Equal(t, "false 1 12000", say(epoch.Add(settleTime)))
	require.Equal(t, "false 1 12001", func() string {
		g.contradicted(Announcement{Version: uint64(epoch.Add(settleTime).UnixMilli())}) // same version, but says less
		return say(epoch.Add(settleTime))
	}(), "what others have heard is not what we say")
	hour := epoch.Add(settleTime + time.Hour)
	g.hears(hour, linuxFrame("IGMPv2 join"))
	require.Equal(t, fmt.Sprint("false 1 ", hour.Sub(epoch).Milliseconds()), say(hour), "again each hour")
	require.Empty(t, say(hour.Add(time.Minute)))
}

// TestEarlierLife: the network remembers announcements of a peer that was started again with another clock.
func TestEarlierLife(t *testing.T) {
	ahead := Announcement{Version: uint64(epoch.Add(time.Hour).UnixMilli()), All: true}
	var g localGroups
	g.start(newQuerier(here), epoch, false)
	require.False(t, g.contradicted(ahead), "nothing is said yet, so nothing has to be said again")
	a, _ := g.announce(epoch)
	require.Equal(t, ahead.Version+1, a.Version)
	require.False(t, g.contradicted(ahead), "old")
	require.False(t, g.contradicted(a), "our own words")
	_, due := g.announce(epoch)
	require.False(t, due)

	require.True(t, g.contradicted(Announcement{Version: math.MaxUint64}), "somebody else's")
	a, due = g.announce(epoch)
	require.True(t, due)
	require.EqualValues(t, uint64(math.MaxUint64), a.Version, "it merges with the other")
}

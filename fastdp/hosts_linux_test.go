package fastdp_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestIntegrationTwoHosts also shows that the first frames come through: the one to a station that nobody knows yet, and the
// one to all. The stations need no ARP, which would send again what is lost.
func TestIntegrationTwoHosts(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s, a, b, _ := connectedSites(t)
	atA, atB := s.station(a, 1), s.station(b, 1)
	s.acquaint(atA, a, 1, atB, b, 1)
	echo(t, atA, stationAddr(b, 1), 3, 100)
	echo(t, atB, stationAddr(a, 1), 3, fastdp.DefaultMTU-28)
	atB2 := s.station(b, 2)
	s.acquaint(atA, a, 1, atB2, b, 2)
	askAll(t, atA, 2)
	byFlows(t, a, func() { echo(t, atA, stationAddr(b, 1), 200, 100) })
	t.Logf("%+v", a.node.dp.Status())
}

// byFlows has 200 frames or more pass, and checks that they do so by flows. A few frames may be missed: hosts send some of their
// own accord.
func byFlows(t *testing.T, at *site, pass func()) {
	t.Helper()
	before := at.node.dp.Status().Counts["misses"]
	pass()
	st := at.node.dp.Status()
	require.Less(t, st.Counts["misses"], before+20, "traffic goes by flows: %+v", st)
}

// TestIntegrationRelay has the middle one of three hosts relay in its kernel.
func TestIntegrationRelay(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newChain(t, 3)
	for _, at := range s.all {
		s.start(at)
	}
	a, b, c := s.all[0], s.all[1], s.all[2]
	s.w.connectAt(t, a.node, b.node, chainAddr(1, 1), chainAddr(1, 2)).awaitUse(t, fastdp.Name)
	s.w.connectAt(t, b.node, c.node, chainAddr(2, 1), chainAddr(2, 2)).awaitUse(t, fastdp.Name)
	atA, atB, atC := s.station(a, 1), s.station(b, 1), s.station(c, 1)
	askAll(t, atA, 2) // flooded through the relay
	echo(t, atA, stationAddr(c, 1), 3, 100)
	echo(t, atC, stationAddr(b, 1), 3, 100)
	echo(t, atB, stationAddr(a, 1), 3, 100)
	byFlows(t, b, func() { echo(t, atA, stationAddr(c, 1), 200, fastdp.DefaultMTU-28) })
	st := b.node.dp.Status()
	require.Equal(t, 2, st.Flows["relay"], "one flow for each direction: %+v", st)
}

// TestIntegrationAdopt ends a peer as a kill does, without taking anything back, and starts it again: the stream between
// stations goes on, in both directions of who was killed.
func TestIntegrationAdopt(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s, a, b, c := connectedSites(t)
	atA, atB := s.station(a, 1), s.station(b, 1)
	st := labtest.NewStream(t, atA, atB, stationAddr(b, 1))
	for range 3 {
		s.w.leave(a.node)
		c.close()
		a.node.stop()
		st.GoOn() // nobody is there
		s.start(a)
		require.NoError(t, a.node.dp.AddPort(t.Context(), "veth1"))
		st.GoOn()
		c = s.w.connect(t, a.node, b.node, nil)
		c.awaitUse(t, fastdp.Name)
		st.GoOn()
		require.NotZero(t, a.node.dp.Status().Counts["flows_adopted"])
	}
	stall, unexplained := st.Longest()
	require.Less(t, unexplained, 200*time.Millisecond, "%+v\n%+v", a.node.dp.Status(), b.node.dp.Status())
	echo(t, atB, stationAddr(a, 1), 10, 100)
	t.Log("longest stall", stall, "of which not of the machine", unexplained, a.node.dp.Status().Counts)
}

// TestIntegrationFallback cuts the way of the tunnel, and heals it: a stream goes over to the other overlay and back.
func TestIntegrationFallback(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newSites(t, 2)
	a, b, c := s.connectBeside(fastdp.Name2)
	atA, atB := s.station(a, 1), s.station(b, 1)
	st := labtest.NewStream(t, atA, atB, stationAddr(b, 1))
	require.NoError(t, a.wire.Cut())
	st.Reset()
	cut := time.Now()
	c.awaitUse(t, "sleeve")
	t.Log("noticed after", time.Since(cut))
	require.Less(t, time.Since(cut), 3500*time.Millisecond+st.Standstill())
	require.Contains(t, c.ends[0].Statuses()[0].Reason, "no answer")
	st.GoOn()
	echo(t, atB, stationAddr(a, 1), 10, 1000)
	require.NoError(t, a.wire.Heal())
	c.awaitUse(t, fastdp.Name2)
	st.Reset()
	st.GoOn()
	_, unexplained := st.Longest()
	require.Less(t, unexplained, time.Second)
	echo(t, atB, stationAddr(a, 1), 10, 1000)
}

// TestIntegrationPathMTU makes the path too narrow for full frames: the link measures what passes, and gives way.
func TestIntegrationPathMTU(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	s := newSites(t, 2)
	a, _, c := s.connectBeside(fastdp.Name2)
	require.NoError(t, a.wire.SetMTU(1300))
	c.awaitUse(t, "sleeve")
	require.Eventually(t, func() bool {
		return strings.Contains(c.ends[0].Statuses()[0].Reason, "up to 1250 bytes")
	}, 2*patience, 10*time.Millisecond, "%+v", c.ends[0].Statuses())
	require.NoError(t, a.wire.SetMTU(1500))
	c.awaitUse(t, fastdp.Name2)
}

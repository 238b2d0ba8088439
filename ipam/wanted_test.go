package ipam

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// TestManyDenied: a rival has taken over all of ours and uses everything that we use. However many these are, all are asked for
// within seconds, after which we give in, and what goes on being wanted is asked for less and less often.
func TestManyDenied(t *testing.T) {
	const inUse = 1000
	x := actor(t, 1, "10.32.0.0/16", Seed(p(1), p(2)))
	x.start(testTime)
	for i := range inUse {
		_, _, _ = x.allocate(fmt.Sprint(i), x.subnet, testTime)
	}
	x.out = outbox{}
	taken, _ := x.ring.Transfer(p(1), p(2))
	asked := make(map[addr.Range]int)
	late := 0
	for s := time.Duration(0); s < time.Hour; s += tick {
		now := testTime.Add(s)
		require.NoError(t, x.receive(p(2), state{ring: taken, copyOf: p(2)}, now))
		x.tick(now)
		for list := x.takeOut().requests; len(list) > 0; list = x.takeOut().requests {
			require.LessOrEqual(t, len(list), window)
			for _, r := range list {
				asked[r.want]++
				x.denied(p(2), r.want, now)
			}
			if s > 30*time.Minute {
				late += len(list)
			}
		}
		if s > time.Minute {
			require.Len(t, asked, inUse)
			require.Empty(t, x.disputes)
		}
	}
	require.Len(t, x.listStrays(), inUse, "in use here all the same")
	require.InDelta(t, inUse*30/4, late, inUse, "every four minutes")
}

// TestManyGranted: a rival has taken over all of ours, and uses nothing of it. We use every second address, and get them all, also if
// they are more than a conflict lists one by one.
func TestManyGranted(t *testing.T) {
	for _, inUse := range []int{65, 300, 1200} {
		x, rival := actor(t, 1, "10.32.0.0/16", Seed(p(1), p(2))), actor(t, 2, "10.32.0.0/16", Seed(p(1), p(2)))
		x.start(testTime)
		rival.start(testTime)
		for i := range inUse {
			x.record(fmt.Sprint(i), netip.PrefixFrom(x.universe.Start.Add(addr.From64(uint64(2*i+1))).Netip(true), 16))
		}
		taken, _ := rival.ring.Transfer(p(1), p(2))
		rival.changeRing(taken)
		for s := time.Duration(0); s < 5*time.Minute; s += tick {
			now := testTime.Add(s)
			require.NoError(t, x.receive(p(2), state{ring: rival.ring, copyOf: p(2)}, now))
			x.tick(now)
			for _, r := range x.takeOut().requests {
				rival.asked(p(1), r.want, now)
			}
			for _, d := range rival.takeOut().denials {
				x.denied(p(2), d.want, now)
			}
		}
		require.Empty(t, x.disputes, "%d in use", inUse)
		require.Empty(t, x.listStrays())
		for i := range inUse {
			require.Equal(t, p(1), rival.ring.Owner(x.universe.Start.Add(addr.From64(uint64(2*i+1)))))
		}
	}
}

// TestRivalLosesItsClaim: the rival comes back without its disk, and has the ring from us. The dispute ends, as nobody claims our
// piece any more.
func TestRivalLosesItsClaim(t *testing.T) {
	x := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2)))
	x.start(testTime)
	_, _, _ = x.allocate("x", x.subnet, testTime)
	taken, _ := x.ring.Transfer(p(1), p(2))
	require.NoError(t, x.receive(p(2), state{ring: taken, copyOf: p(2)}, testTime))
	require.Len(t, x.disputes, 1)
	require.NoError(t, x.receive(p(2), state{ring: x.ring, copyOf: p(2)}, testTime.Add(overtaking)))
	require.Empty(t, x.disputes)
	require.EqualValues(t, 127, x.free.Len().Uint64())
}

// TestOneDoesNotAnswer: what a peer does not answer keeps nobody from asking others, and is asked for again.
func TestOneDoesNotAnswer(t *testing.T) {
	x := actor(t, 1, "10.32.0.0/16", Seed(p(1), p(2), p(3)))
	x.start(testTime)
	for _, piece := range x.ring.Pieces() {
		for i := range uint64(100) {
			x.record(fmt.Sprint(piece.Peer, i), netip.PrefixFrom(piece.Start.Add(addr.From64(i)).Netip(true), 16))
		}
	}
	asked := make(map[peer.Name]int)
	for i := range 3 {
		now := testTime.Add(time.Duration(i) * tick)
		x.tick(now)
		for list := x.takeOut().requests; len(list) > 0; list = x.takeOut().requests {
			for _, r := range list {
				asked[r.to[0]]++
				if r.to[0] == p(3) {
					x.denied(p(3), r.want, now)
				}
			}
		}
	}
	require.Equal(t, map[peer.Name]int{p(2): 3 * window, p(3): 100}, asked)
}

// TestSilentDonor: a peer with far more free space than another does not answer.
func TestSilentDonor(t *testing.T) {
	x := actor(t, 3, "10.32.0.0/16", Observer())
	x.start(testTime)
	r := ring.Divide(x.universe, []peer.Name{p(1), p(2)})
	r.Tokens[1].Free = 20
	require.NoError(t, x.receive(p(2), state{ring: r, copyOf: p(2)}, testTime))
	_, w, err := x.allocate("x", x.subnet, testTime)
	require.NoError(t, err)
	require.NotNil(t, w)
	first := x.takeOut().requests[0].to[0]
	x.tick(testTime.Add(tick))
	require.NotEqual(t, first, x.takeOut().requests[0].to[0], "each was asked once")
	x.tick(testTime.Add(2 * tick))
	require.Len(t, x.takeOut().requests[0].to, 2, "nobody is given up")
}

// TestLateStateOfARival from before its takeover does not end the dispute about it.
func TestLateStateOfARival(t *testing.T) {
	x := actor(t, 1, "10.32.0.0/24", Seed(p(1), p(2)))
	x.start(testTime)
	before := x.ring
	_, _, _ = x.allocate("x", x.subnet, testTime)
	taken, _ := before.Transfer(p(1), p(2))
	require.NoError(t, x.receive(p(2), state{ring: taken, copyOf: p(2)}, testTime))
	require.Len(t, x.disputes, 1)
	require.NoError(t, x.receive(p(2), state{ring: before, copyOf: p(2)}, testTime))
	require.Len(t, x.disputes, 1)
	require.True(t, x.free.Empty())
	back, _ := taken.Transfer(p(2), p(1))
	require.NoError(t, x.receive(p(2), state{ring: back, copyOf: p(2)}, testTime))
	require.Empty(t, x.disputes, "it gave all back")
}

// TestMeetingsEnd: what is given out here does not depend on how many peers of another cluster are in reach, whether these may change
// over to our ring or not.
func TestMeetingsEnd(t *testing.T) {
	for _, joins := range []bool{false, true} {
		x := actor(t, 1, "10.32.0.0/16", Seed(p(1), p(2)))
		x.start(testTime)
		in := ring.Divide(x.universe, []peer.Name{p(3), p(4)})
		in.Tokens[0].Free -= 10
		stopped := 0
		for s := range 3600 {
			now := testTime.Add(time.Duration(s) * time.Second)
			if s%5 == 0 {
				x.tick(now)
			}
			_ = x.receive(0, state{ring: in, copyOf: peer.Name(0x5000 + s%300), joins: joins}, now)
			if !x.mayGive() {
				stopped++
			}
		}
		if joins {
			require.Positive(t, stopped)
		}
		require.Less(t, stopped, 60, "of an hour, in seconds")
	}
}

// TestMeetingsHaveABudget: many rings that are to go, each with somebody who goes on asking, do not keep us from giving out addresses.
func TestMeetingsHaveABudget(t *testing.T) {
	x := actor(t, 1, "10.32.0.0/16", Seed(p(1), p(2)))
	x.start(testTime)
	stopped := 0
	for s := range 3600 {
		now := testTime.Add(time.Duration(s) * time.Second)
		if s%5 == 0 {
			x.tick(now)
		}
		guest := p(3 + s%16)
		in := ring.Divide(x.universe, []peer.Name{guest, p(60)})
		in.Tokens[0].Free -= 10
		_ = x.receive(0, state{ring: in, copyOf: guest, joins: true}, now)
		x.prolongMeeting(guest, now)
		x.takeOut()
		if !x.mayGive() {
			stopped++
		}
	}
	const late = 6 * int(tick/time.Second) // each time is over at a tick
	require.LessOrEqual(t, stopped, 6*int(meetMost/time.Second)+late, "of an hour, in seconds")
}

// TestGuestsOfTwoRings: who was there first goes on being heard when others come.
func TestGuestsOfTwoRings(t *testing.T) {
	x := actor(t, 1, "10.32.0.0/16", Seed(p(1), p(2)))
	x.start(testTime)
	for i, seeds := range [][]peer.Name{{p(3), p(4)}, {p(6), p(7)}} {
		in := ring.Divide(x.universe, seeds)
		in.Tokens[0].Free -= 10
		_ = x.receive(0, state{ring: in, copyOf: seeds[0], joins: true}, testTime.Add(time.Duration(i)*time.Second))
	}
	x.prolongMeeting(p(3), testTime.Add(4*time.Second))
	x.tick(testTime.Add(8 * time.Second))
	require.False(t, x.mayGive())
	x.tick(testTime.Add(9 * time.Second))
	require.True(t, x.mayGive())
	x.yieldToUsers(testTime.Add(10 * time.Second))
	x.prolongMeeting(p(3), testTime.Add(12*time.Second))
	x.tick(testTime.Add(15 * time.Second))
	require.True(t, x.mayGive(), "that one is over")
}

// TestMeetingLasts as long as those who change over ask for what they use, and not for ever.
func TestMeetingLasts(t *testing.T) {
	x := actor(t, 1, "10.32.0.0/16", Seed(p(1), p(2)))
	x.start(testTime)
	in := ring.Divide(x.universe, []peer.Name{p(3), p(4)})
	in.Tokens[0].Free -= 10
	_ = x.receive(0, state{ring: in, copyOf: p(3), joins: true}, testTime)
	for s := range 300 {
		now := testTime.Add(time.Duration(s) * time.Second)
		x.tick(now)
		require.Equal(t, now.Sub(testTime) >= meetMost, x.mayGive(), "after %d s", s)
		x.asked(p(3), x.universe, now)
		require.Equal(t, now.Sub(testTime) >= meetMost, len(x.takeOut().updates) > 0, "nor is space given away")
		x.asked(p(3), addr.Single(x.universe.Start.Add(addr.From64(uint64(s)))), now)
		x.takeOut()
	}
}

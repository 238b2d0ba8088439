package mesh

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// bad is a receiver that fails in the way it is told.
type bad struct {
	echo
	how   string
	block chan struct{}
}

func (b *bad) fail() error {
	switch b.how {
	case "panic":
		panic("on purpose")
	case "block":
		<-b.block
	}
	return errors.New("on purpose")
}

func (b *bad) OnUnicast(peer.Name, []byte) error                  { return b.fail() }
func (b *bad) OnBroadcast(peer.Name, []byte) (gossip.Data, error) { return nil, b.fail() }
func (b *bad) OnGossip([]byte) (gossip.Data, error)               { return nil, b.fail() }
func (b *bad) State() gossip.Data                                 { return badData{b} }

// badData fails when it is encoded or merged. It does not block when it is merged: that would block whoever sends, on the
// same channel.
type badData struct{ b *bad }

func (d badData) Encode() [][]byte {
	_ = d.b.fail()
	return nil
}

func (d badData) Merge(gossip.Data) gossip.Data {
	if d.b.how != "block" {
		_ = d.b.fail()
	}
	return nil
}

// TestFaultsStayInTheirChannel: whatever a receiver does, links and the other channel go on.
func TestFaultsStayInTheirChannel(t *testing.T) {
	for _, how := range []string{"error", "panic", "block"} {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.NewNetwork(time.Millisecond)
			block := make(chan struct{})
			var rs []*running
			var good []*echo
			var goodSender, badSender gossip.Sender
			for i := 1; i <= 3; i++ {
				g := &echo{}
				good = append(good, g)
				rs = append(rs, start(t, inMemory(n, i, 1), func(r *Router) {
					s, err := r.Join("bad", &bad{how: how, block: block})
					require.NoError(t, err)
					s2, err := r.Join("good", g)
					require.NoError(t, err)
					if i == 1 {
						goodSender, badSender = s2, s
					}
				}))
			}
			release := sync.OnceFunc(func() { close(block) })
			t.Cleanup(release) // before the routers are stopped
			time.Sleep(30 * time.Second)
			for _, g := range good {
				g.take()
			}
			for range 3000 {
				badSender.Gossip(badData{&bad{how: how, block: block}})
				badSender.Broadcast(words{"x"})
				_ = badSender.Unicast(t.Context(), name(2), []byte("x"))
				time.Sleep(10 * time.Millisecond)
			}
			goodSender.Broadcast(words{"p1"})
			require.NoError(t, goodSender.Unicast(t.Context(), name(3), []byte("p1")))
			time.Sleep(time.Second)
			require.Len(t, good[1].take(), 1, how)
			require.Len(t, good[2].take(), 2, how)
			for _, r := range rs {
				require.Len(t, r.Status().Connections, 2)
				require.Empty(t, ended(r))
			}
			if how != "block" {
				require.NotZero(t, rs[1].Status().Channels[0].Faults)
			} else {
				require.NotZero(t, rs[1].Status().Channels[0].Dropped)
			}
			release()
			for _, r := range rs {
				r.stop()
			}
		})
	}
}

// ended returns connections that have ended for other reasons than as duplicates and our own address.
func ended(r *running) (list []string) {
	for _, e := range r.Status().Ended {
		if !isDuplicate(e.Err) {
			list = append(list, e.Reason)
		}
	}
	return list
}

func TestGossipTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		var rs []*running
		var recv []*echo
		var senders []gossip.Sender
		for i := 1; i <= 4; i++ { // a line: no discovery
			c := inMemory(n, i, max(1, i-1))
			c.NoDiscovery = true
			e := &echo{}
			recv = append(recv, e)
			rs = append(rs, start(t, c, func(r *Router) {
				s, err := r.Join("ch", e)
				require.NoError(t, err)
				senders = append(senders, s)
				_, err = r.Join("ch", e)
				require.ErrorIs(t, err, gossip.ErrChannelTaken)
				_, err = r.Join(topologyChannel, e)
				require.ErrorIs(t, err, gossip.ErrChannelTaken)
			}))
		}
		time.Sleep(10 * time.Second)
		_, err := rs[0].Join("late", &echo{})
		require.ErrorIs(t, err, gossip.ErrRunning)
		require.NoError(t, senders[0].Unicast(t.Context(), name(4), []byte("p2")))
		require.ErrorIs(t, senders[0].Unicast(t.Context(), name(1), nil), gossip.ErrUnreachable)
		require.ErrorIs(t, senders[0].Unicast(t.Context(), 77, nil), gossip.ErrUnreachable)
		time.Sleep(time.Second)
		require.Equal(t, []string{"unicast " + name(1).String() + " 7032"}, recv[3].take())
		senders[0].Broadcast(words{"w"})
		time.Sleep(time.Second)
		for _, e := range recv[1:] {
			require.Len(t, e.take(), 1)
		}
		require.Empty(t, recv[0].take())
		rs[3].stop()
		time.Sleep(10 * time.Second)
		require.Equal(t, []string{"gone " + name(4).String()}, recv[0].take())
		for _, r := range rs[:3] {
			r.stop()
		}
	})
}

// TestHostile: what a peer sends that is no friend costs it the connection, at most.
func TestHostile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(0)
		one, two := start(t, inMemory(n, 1)), start(t, inMemory(n, 2, 1))
		time.Sleep(10 * time.Second)
		rnd := rand.New(rand.NewPCG(1, 2))
		for i := range 50 {
			c := join(t, n, name(10+i), uint64(i))
			b := make([]byte, rnd.IntN(200))
			for j := range b {
				b[j] = byte(rnd.Uint32())
			}
			frame, err := c.s.out.append(nil, append([]byte{byte(i % 20)}, b...))
			require.NoError(t, err)
			_, _ = c.Write(frame)
			synctest.Wait()
			_ = c.Close()
		}
		invented := map[peer.Name][]peer.Name{}
		for i := range 100_000 {
			invented[peer.Name(1<<32+i)] = nil
		}
		c := join(t, n, name(99), 1)
		done := make(chan struct{})
		go func() { // the write may fail when the other end has had enough
			defer close(done)
			var entries []*entry
			for p := range invented {
				entries = append(entries, &entry{name: p, uid: 1, version: 1})
			}
			frame, _ := c.s.out.append(nil, encodeMessage(tagGossip, topologyChannel, name(99), 0, encodeUpdate(entries)))
			_, _ = c.Write(frame)
		}()
		<-done
		time.Sleep(5 * time.Second)
		_ = c.Close()
		time.Sleep(5 * time.Second)
		require.True(t, knows(2, one, two)(), "%d", len(one.Members()))
		require.Empty(t, ended(two))
		require.True(t, strings.Contains(strings.Join(ended(one), " "), errTooMany.Error()))
		one.stop()
		two.stop()
	})
}

// TestVersion1 has an old peer of version 1, with and without password, which shows a wrong one after the introduction.
func TestVersion1(t *testing.T) {
	for _, password := range []string{"", "secret", "wrong"} {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.NewNetwork(0)
			c := inMemory(n, 1)
			if password != "" {
				c.Password = []byte("secret")
			}
			r := start(t, c)
			synctest.Wait()
			conn := dial(t, n, 2)
			i := introduction{self: features{name: name(2), uid: 9, connID: 4}, minimum: 1, maximum: 1, outbound: true, password: []byte(password)}
			s, err := i.run(conn, conn)
			require.NoError(t, err)
			require.Equal(t, 1, s.version)
			cl := &client{conn, s}
			cl.send(t, []byte{tagHeartbeat})
			_, err = s.in.next() // its topology
			if password == "wrong" {
				require.Error(t, err)
				synctest.Wait()
				require.ErrorIs(t, r.Status().Ended[0].Err, ErrPassword)
			} else {
				require.NoError(t, err)
				require.Equal(t, 1, r.Status().Connections[0].Protocol)
			}
			_ = conn.Close()
			r.stop()
		})
	}
}

// TestUnicastWaits: a unicast waits for room as long as its context allows.
func TestUnicastWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o outbox
		require.NoError(t, o.urgentNow(make([]byte, maxUrgent)))
		require.ErrorIs(t, o.urgentNow([]byte{1}), errQueueFull)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, o.urgentWait(ctx, []byte{1}), context.DeadlineExceeded)
		got := make(chan error)
		go func() { got <- o.urgentWait(t.Context(), []byte{1}) }()
		synctest.Wait()
		_, ok := o.next()
		require.True(t, ok)
		require.NoError(t, <-got)
		o.close()
		require.ErrorIs(t, o.urgentNow([]byte{1}), errEnding)
	})
}

// TestDataPlane: connections are pending until the overlay says otherwise, and the switch gets routes.
func TestDataPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.NewNetwork(time.Millisecond)
		var rs []*running
		var fakes []*fakeOverlay
		for i := 1; i <= 2; i++ {
			f := &fakeOverlay{}
			fakes = append(fakes, f)
			sw, err := overlay.NewSwitch(overlay.SwitchConfig{Self: name(i), Overlays: []overlay.Overlay{f}})
			require.NoError(t, err)
			c := inMemory(n, i, 1)
			c.Switch, c.Password = sw, []byte("secret")
			rs = append(rs, start(t, c))
		}
		time.Sleep(10 * time.Second)
		for i, f := range fakes {
			require.NotNil(t, f.seen().Key)
			require.Equal(t, "pending", rs[i].Status().Connections[0].State)
			require.NoError(t, f.seen().SendControl(2, []byte("control")))
		}
		require.Equal(t, fakes[0].seen().Key, fakes[1].seen().Key)
		require.Equal(t, fakes[0].seen().ConnUID, fakes[1].seen().ConnUID)
		time.Sleep(time.Second)
		for _, f := range fakes {
			require.Equal(t, "control", f.heard())
			f.seen().Report(overlay.Event{Kind: overlay.Established})
		}
		time.Sleep(5 * time.Second)
		require.Equal(t, "established", rs[0].Status().Connections[0].State)
		require.Contains(t, rs[0].Status().UnicastRoutes, UnicastRoute{Dest: name(2), Via: name(2)})
		fakes[1].seen().Report(overlay.Event{Kind: overlay.Failed, Err: errors.New("gone")})
		synctest.Wait()
		require.Contains(t, strings.Join(ended(rs[1]), " "), "gone")
		for _, r := range rs {
			r.stop()
		}
	})
}

// fakeOverlay is an overlay whose last link the test plays.
type fakeOverlay struct {
	mu      sync.Mutex
	params  overlay.Params
	control string
}

func (f *fakeOverlay) seen() overlay.Params {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.params
}

func (f *fakeOverlay) heard() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.control
}

func (*fakeOverlay) Name() string { return "fake" }

func (f *fakeOverlay) Prepare(p overlay.Params) (overlay.Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.params = p
	return f, nil
}

func (f *fakeOverlay) Confirm()             {}
func (f *fakeOverlay) Send([]overlay.Frame) {}
func (f *fakeOverlay) Control(_ byte, payload []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.control = string(payload)
}

func (f *fakeOverlay) Status() overlay.LinkStatus { return overlay.LinkStatus{Overlay: "fake"} }
func (f *fakeOverlay) Close()                     {}

// TestRTT: the round trip is measured between peers of this package, and only there.
func TestRTT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay = 7 * time.Millisecond
		n := meshtest.NewNetwork(delay)
		old := inMemory(n, 3, 1)
		old.NoDeltas = true
		r, other, third := start(t, inMemory(n, 1)), start(t, inMemory(n, 2, 1)), start(t, old)
		time.Sleep(2 * heartbeatInterval)
		for _, c := range r.Status().Connections {
			if c.Name == name(3) {
				require.Zero(t, c.RTT)
			} else {
				require.Equal(t, 2*delay, c.RTT)
			}
		}
		require.Len(t, r.Status().Connections, 2)
		for _, x := range []*running{r, other, third} {
			x.stop()
		}
	})
}

package ipsec_test

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/fastdp/ipsec/ipsectest"
)

// A daemon that dies leaves traffic running, and its successor takes over without a gap.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		before := connect(t, a, b, link{key: 1})
		before.requireReady()
		check := func() {
			if packet(a, b).Outcome != ipsectest.Encrypted || packet(b, a).Outcome != ipsectest.Encrypted {
				t.Error("a packet was lost, or in the clear")
			}
		}
		a.kernel.OnChange(check)
		b.kernel.OnChange(check)
		before.sever() // A is dead
		a.stop()
		before.ends[1].Close()
		after(time.Second)
		check()
		a.start()
		after(3 * time.Second)
		check()
		next := connect(t, a, b, link{key: 2})
		next.requireReady()
		after(2 * ipsec.DefaultHold)
		requireBoth(t, a, b, ipsectest.Encrypted)
		for _, h := range []*host{a, b} {
			_, associations, err := h.kernel.List()
			require.NoError(t, err)
			require.Len(t, associations, 2, "those of the former run are gone")
		}
		require.NotZero(t, a.p.Status().Adopted)
	})
}

// What nobody takes over is removed after a hold; associations of which nobody knows what they are for at once.
func TestLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		c := connect(t, a, b, link{key: 1})
		c.requireReady()
		c.sever()
		a.stop()
		_, associations, err := a.kernel.List()
		require.NoError(t, err)
		stray := associations[0]
		stray.SPI, stray.ReqID = 4711, associations[0].ReqID^1
		require.NoError(t, a.kernel.AddAssociation(stray))
		foreign := stray // of another daemon: another port
		foreign.SPI, foreign.Port = 4712, tunnelPort+1
		require.NoError(t, a.kernel.AddAssociation(foreign))

		a.start()
		_, associations, err = a.kernel.List()
		require.NoError(t, err)
		require.Len(t, associations, 3, "the stray one is gone")
		after(ipsec.DefaultHold + ipsec.DefaultSweep)
		policies, associations, err := a.kernel.List()
		require.NoError(t, err)
		require.Len(t, policies, 4)
		require.Len(t, associations, 1)
		require.EqualValues(t, tunnelPort+1, associations[0].Port)
		require.Equal(t, ipsectest.Unsent, packet(a, b).Outcome)
	})
}

func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		c := connect(t, a, b, link{key: 1})
		c.requireReady()
		require.NoError(t, a.p.Release(tunnelPort))
		policies, associations, err := a.kernel.List()
		require.NoError(t, err)
		require.Empty(t, policies)
		require.Empty(t, associations)
		require.Error(t, c.reportsAfterWait(0)[1])
		c.close()
		after(2 * ipsec.DefaultHold)
		policies, _, err = a.kernel.List()
		require.NoError(t, err)
		require.Empty(t, policies)
	})
}

// What a killed daemon left is removed without one, the blocks last, and others keep theirs.
func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		connect(t, a, b, link{key: 1}).requireReady()
		a.stop()
		other := ipsec.Policy{Selector: ipsec.Selector{Src: netip.MustParsePrefix("::/0"), Dst: netip.MustParsePrefix("::/0"), Port: tunnelPort + 1}}
		require.NoError(t, a.kernel.PutPolicy(other))
		a.kernel.OnChange(func() {
			policies, associations, err := a.kernel.List()
			require.NoError(t, err)
			blocks := 0
			for _, p := range policies {
				if p.Action == ipsec.Block {
					blocks++
				}
			}
			if blocks < 5 && len(policies)+len(associations) > blocks {
				t.Error("a block was removed before something that it is for")
			}
		})
		require.NoError(t, ipsec.Reset(a.kernel, tunnelPort))
		a.kernel.OnChange(nil)
		policies, associations, err := a.kernel.List()
		require.NoError(t, err)
		require.Equal(t, []ipsec.Policy{other}, policies)
		require.Empty(t, associations)
		require.True(t, packet(a, b).Exposed)

		require.NoError(t, ipsec.Reset(a.kernel, 0))
		policies, _, err = a.kernel.List()
		require.NoError(t, err)
		require.Empty(t, policies)
		broken := errors.New("broken")
		b.kernel.OnRequest(func(request string) error {
			if request == "DeleteAssociation" {
				return broken
			}
			return nil
		})
		require.ErrorIs(t, ipsec.Reset(b.kernel, 0), broken)
		b.kernel.OnRequest(nil)
	})
}

func (c *connection) reportsAfterWait(end int) []error {
	synctest.Wait()
	return c.reports(end)
}

// Between new peers keys change, and no packet is lost or in the clear at any time.
func TestRekey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		c := connect(t, a, b, link{key: 1, rekeys: true})
		c.requireReady()
		check := func() {
			if packet(a, b).Outcome != ipsectest.Encrypted || packet(b, a).Outcome != ipsectest.Encrypted {
				t.Error("a packet was lost, or in the clear")
			}
		}
		a.kernel.OnChange(check)
		b.kernel.OnChange(check)
		seen := map[uint32]bool{}
		for range 5 {
			seen[packet(a, b).SPI] = true
			after(ipsec.DefaultRekeyAfter)
			after(time.Minute) // the old ones are gone
			_, associations, err := a.kernel.List()
			require.NoError(t, err)
			require.Len(t, associations, 2)
		}
		require.Len(t, seen, 5)
		require.GreaterOrEqual(t, c.ends[0].Status().Rekeys, uint64(10))
		require.Equal(t, []error{nil}, c.reports(0))
	})
}

func TestRekeyByVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{RekeyPackets: 100})
		c := connect(t, a, b, link{key: 1, rekeys: true})
		c.requireReady()
		for range 100 {
			require.Equal(t, ipsectest.Encrypted, packet(a, b).Outcome)
		}
		after(2 * ipsec.DefaultSweep)
		require.Equal(t, 2, c.announcements(1), "B receives and changes")
		require.Equal(t, 1, c.announcements(0))
	})
}

// The old wire takes new keys once an hour at most.
func TestRekeyOldWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{RekeyAfter: time.Minute, RekeyPackets: 1})
		c := connect(t, a, b, link{key: 1})
		c.requireReady()
		after(59 * time.Minute)
		require.Equal(t, ipsectest.Encrypted, packet(a, b).Outcome)
		require.Equal(t, 1, c.announcements(1))
		after(2 * time.Minute)
		require.Equal(t, 2, c.announcements(1))
		requireBoth(t, a, b, ipsectest.Encrypted)
	})
}

// A remote that does not take the new key keeps the old one, and is not told of ever more.
func TestRekeyIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		c := connect(t, a, b, link{key: 1, rekeys: true})
		c.requireReady()
		c.sever()
		after(10 * ipsec.DefaultRekeyAfter)
		require.Equal(t, 2, c.announcements(0))
		requireBoth(t, a, b, ipsectest.Encrypted)
	})
}

// Others flush everything: the blocks are back at once, and new peers mend it by themselves.
func TestFlushedByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		c := connect(t, a, b, link{key: 1, rekeys: true})
		c.requireReady()
		after(2 * time.Second)
		a.kernel.Flush()
		require.Equal(t, ipsectest.Refused, packet(a, b).Outcome, "in the clear, and the other end does not want it")
		after(100 * time.Millisecond)
		require.False(t, packet(a, b).Exposed)
		after(5 * time.Second)
		requireBoth(t, a, b, ipsectest.Encrypted)
		require.NotZero(t, a.p.Status().Repaired)
		require.Equal(t, []error{nil}, c.reports(0))
	})
}

// With 2.8 at the other end a lost key takes a new connection; what is sent to us is repaired, once a minute.
func TestLostWithOldWire(t *testing.T) {
	for name, c := range map[string]struct {
		outbound bool
		times    int
		lost     bool
	}{
		"outbound": {outbound: true, times: 1, lost: true}, "inbound": {times: 1}, "inbound again": {times: 2, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := twoHosts(t, ipsec.Config{})
				conn := connect(t, a, b, link{key: 1})
				conn.requireReady()
				after(2 * time.Minute)
				for range c.times {
					_, associations, err := a.kernel.List()
					require.NoError(t, err)
					for _, sa := range associations {
						if sa.Src.Contains(a.addr) == c.outbound {
							require.NoError(t, a.kernel.DeleteAssociation(sa))
						}
					}
					after(time.Second)
				}
				reports := conn.reports(0)
				if !c.lost {
					require.Equal(t, []error{nil}, reports)
					requireBoth(t, a, b, ipsectest.Encrypted)
					return
				}
				require.Len(t, reports, 2)
				require.ErrorIs(t, reports[1], ipsec.ErrLost)
			})
		})
	}
}

// Policies that others change or delete are put back.
func TestPoliciesChangedByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, ipsec.Config{})
		connect(t, a, b, link{key: 1}).requireReady()
		policies, _, err := a.kernel.List()
		require.NoError(t, err)
		for _, p := range policies {
			after(time.Second)
			require.NoError(t, a.kernel.DeletePolicy(p))
			after(time.Second)
			requireBoth(t, a, b, ipsectest.Encrypted)
			p.Action, p.SPI, p.ReqID = ipsec.Clear, 0, 0
			require.NoError(t, a.kernel.PutPolicy(p))
			after(time.Second)
		}
		now, _, err := a.kernel.List()
		require.NoError(t, err)
		require.ElementsMatch(t, policies, now)
		var _ fastdp.Protector = a.p
	})
}

// TestProtectAgain has a tunnel protected again after its protection failed: between new peers it works, and with 2.8 it is said that
// it takes a new connection.
func TestProtectAgain(t *testing.T) {
	for _, rekeys := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			a, b := twoHosts(t, ipsec.Config{})
			neverExposed(t, a, b)
			c := connect(t, a, b, link{key: 1, rekeys: rekeys})
			c.requireReady()
			c.sever() // payloads are taken across by hand
			after(2 * time.Second)
			c.ends[0].Control([]byte("nonsense"))
			synctest.Wait()
			reports := c.reports(0)
			require.Len(t, reports, 2)
			require.Error(t, reports[1])
			require.Equal(t, !rekeys, errors.Is(reports[1], fastdp.ErrNewConnection), reports[1])
			c.ends[0].Close()
			if !rekeys {
				return
			}
			c.again = true
			c.ends[0] = c.protect(a, b, 0, [32]byte{1}, rekeys)
			before := c.announcements(1)
			c.ends[1].Control(c.payload(0))
			synctest.Wait()
			require.Equal(t, before+1, c.announcements(1), "the other end was asked for its key")
			c.ends[0].Control(c.payload(1))
			synctest.Wait()
			for _, end := range c.ends {
				require.True(t, end.Status().Encrypted, end.Status().Reason)
			}
			require.NoError(t, c.reports(0)[2])
			requireBoth(t, a, b, ipsectest.Encrypted)
		})
	}
}

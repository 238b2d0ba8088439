package fastdp

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

// fakeProtector protects tunnels by saying so.
type fakeProtector struct {
	mu      sync.Mutex
	fail    error // of what is asked of it
	tunnels []Tunnel
	open    int
	report  func(error) // of the last protection
}

func (p *fakeProtector) Guard(uint16) error { return nil }

func (p *fakeProtector) Allow(t Tunnel) (Protection, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tunnels = append(p.tunnels, t)
	if p.fail != nil {
		return nil, p.fail
	}
	p.open++
	return &fakeProtection{p: p}, nil
}

func (p *fakeProtector) Protect(t Tunnel, send func([]byte) error, report func(error)) (Protection, error) {
	made, err := p.Allow(t)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.report = report
	p.mu.Unlock()
	report(nil)
	return made, nil
}

type fakeProtection struct {
	p    *fakeProtector
	once sync.Once
}

func (f *fakeProtection) Control([]byte)           {}
func (f *fakeProtection) Status() ProtectionStatus { return ProtectionStatus{} }

func (f *fakeProtection) Close() {
	f.once.Do(func() {
		f.p.mu.Lock()
		defer f.p.mu.Unlock()
		f.p.open--
	})
}

func (p *fakeProtector) set(fail error) (report func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = fail
	return p.report
}

// TestProtectionFails: a link whose tunnel cannot be protected is on hold, says why and when it is tried again, and comes back.
func TestProtectionFails(t *testing.T) {
	for _, offer := range []string{Name, Name2} {
		p := &fakeProtector{fail: errors.New("no policy")}
		protected(t, p, offer, func(t *testing.T, r *rig, b *overlay.Bundle, heard func()) {
			first := func() overlay.LinkStatus { return b.Statuses()[0] }
			require.Equal(t, "no policy", first().Reason)
			require.Equal(t, time.Second, time.Until(first().Next).Round(100*time.Millisecond))
			require.Equal(t, "sleeve", b.Status().Overlay)
			time.Sleep(1500 * time.Millisecond)
			require.Equal(t, 1500*time.Millisecond, time.Until(first().Next).Round(100*time.Millisecond), "two seconds after the second time")
			p.set(nil)
			time.Sleep(2 * time.Second)
			heard()
			require.Equal(t, offer, b.Status().Overlay)
			require.Zero(t, first().Next)

			report := p.set(nil)
			report(errors.New("a key was refused"))
			synctest.Wait()
			require.Equal(t, "sleeve", b.Status().Overlay)
			require.Equal(t, "a key was refused", first().Reason)
			time.Sleep(4500 * time.Millisecond)
			heard()
			require.Equal(t, offer, b.Status().Overlay)
			p.mu.Lock()
			require.Len(t, p.tunnels, 4)
			require.False(t, p.tunnels[0].Again)
			require.True(t, p.tunnels[3].Again)
			require.Equal(t, 1, p.open)
			p.mu.Unlock()

			p.set(nil)(fmt.Errorf("lost: %w", ErrNewConnection))
			synctest.Wait()
			require.Contains(t, first().Reason, "it takes a new connection")
			time.Sleep(5 * time.Minute)
			require.Equal(t, "sleeve", b.Status().Overlay)
			p.mu.Lock()
			require.Len(t, p.tunnels, 4)
			require.Zero(t, p.open)
			p.mu.Unlock()
		})
	}
}

// protected runs a test with a link of one overlay to B that has a key; heard has B be heard.
func protected(t *testing.T, p *fakeProtector, offer string, test func(t *testing.T, r *rig, b *overlay.Bundle, heard func())) {
	bubble(t, func(t *testing.T, r *rig) {
		r.stop()
		r.start(func(c *Config) { c.Protector = p })
		r.routes = testRoutes()
		r.fwd.SetRoutes(r.routes)
		b, err := r.sw.Prepare(overlay.Params{
			Self: self, Remote: nameB, Local: addrPort(selfAddr), RemoteAddr: addrPort(addrB), Outbound: true,
			ConnUID: uint64(nameB), Key: new([32]byte), Features: map[string]string{overlay.FeatureKey: offer + " sleeve"},
		}, func(byte, []byte) error { return nil }, func(overlay.Event) {})
		require.NoError(t, err)
		b.Confirm()
		defer b.Close()
		r.settle()
		stop, done := make(chan struct{}), make(chan struct{})
		go r.answerProbes(stop, done)
		defer func() { close(stop); <-done }()
		test(t, r, b, func() {
			if offer == Name {
				r.arriveFrame(uint64(nameB), appendHeartbeat(nil, uint64(nameB), 1390))
			} else {
				time.Sleep(3 * time.Second) // probes are answered
			}
			r.settle()
		})
	})
}

// TestAckIsRepeated: a heartbeat that could not be acknowledged is acknowledged with the next one.
func TestAckIsRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.routes = testRoutes()
		r.fwd.SetRoutes(r.routes)
		tries := 0
		b, err := r.sw.Prepare(overlay.Params{
			Self: self, Remote: nameB, Local: addrPort(selfAddr), RemoteAddr: addrPort(addrB), Outbound: true,
			ConnUID: uint64(nameB), Features: map[string]string{overlay.FeatureKey: "fastdp sleeve"},
		}, func(_ byte, payload []byte) error {
			if payload[1] == tagHeartbeatAck && payload[0] == 0 {
				if tries++; tries == 1 {
					return errors.New("full")
				}
			}
			return nil
		}, func(overlay.Event) {})
		require.NoError(t, err)
		b.Confirm()
		defer b.Close()
		r.settle()
		for _, want := range []int{1, 2, 2} {
			r.arriveFrame(uint64(nameB), appendHeartbeat(nil, uint64(nameB), 1390))
			r.settle()
			require.Equal(t, want, tries)
		}
	})
}

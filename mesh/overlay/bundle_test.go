package overlay_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
)

// bench is one end of a connection over stub overlays, with what the mesh gets to see.
type bench struct {
	stubs  map[string]*stub
	sw     *overlay.Switch
	bundle *overlay.Bundle

	mu       sync.Mutex
	messages []string // to the other end, tag first, in hex
	events   []overlay.Event
}

// newBench prepares a connection to a peer whose Overlays feature is theirs; nil means that it has none.
func newBench(t *testing.T, ours string, theirs *string, failing ...string) (*bench, error) {
	b := &bench{stubs: map[string]*stub{}}
	var overlays []overlay.Overlay
	for _, name := range strings.Fields(ours) {
		b.stubs[name] = &stub{name: name}
		overlays = append(overlays, b.stubs[name])
	}
	for _, name := range failing {
		b.stubs[name].fail = errTest
	}
	b.sw = newSwitch(t, nil, overlays...)
	p := overlay.Params{Self: peerA, Remote: peerB, Outbound: true, Features: map[string]string{}}
	if theirs != nil {
		p.Features[overlay.FeatureKey] = *theirs
	}
	var err error
	b.bundle, err = b.sw.Prepare(p, b.send, b.report)
	return b, err
}

func (b *bench) send(tag byte, payload []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.messages = append(b.messages, fmt.Sprintf("%02x%x", tag, payload))
	return nil
}

func (b *bench) report(e overlay.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

func (b *bench) kinds() (kinds []overlay.EventKind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func both(t *testing.T) (b *bench, fast, slow *stubLink) {
	offer := "fast slow"
	b, err := newBench(t, offer, &offer)
	require.NoError(t, err)
	b.bundle.Confirm()
	return b, b.stubs["fast"].last(), b.stubs["slow"].last()
}

// TestVectorBundle checks order, indexes and control messages against what Weave Net 2.8 computed.
func TestVectorBundle(t *testing.T) {
	var vectors map[string]struct {
		Expected struct {
			Results []struct {
				Index0   []string          `json:"receiver_of_index0_tag3_payload_0514"`
				Messages map[string]string `json:"control_tag1_payload_aabb_message_hex"`
				Failing  string            `json:"failing_overlay"`
				OK       bool
				Ours     string `json:"our_overlays"`
				Theirs   string `json:"their_overlays"`
				Compat   string `json:"compat_overlay"`
			}
		}
	}
	loadVectors(t, "mesh.json", &vectors)
	require.Len(t, vectors["overlay-common-list"].Expected.Results, 10)
	for _, r := range vectors["overlay-common-list"].Expected.Results {
		theirs := &r.Theirs
		if r.Compat != "" {
			theirs = nil
		}
		b, err := newBench(t, r.Ours, theirs, strings.Fields(r.Failing)...)
		if !r.OK {
			require.ErrorIs(t, err, overlay.ErrNoCommonOverlay, "%+v", r)
			continue
		}
		require.NoError(t, err, "%+v", r)

		prepared := 0
		for name, s := range b.stubs {
			if len(s.links) == 0 {
				continue
			}
			prepared++
			b.messages = nil
			require.NoError(t, s.last().SendControl(1, []byte{0xaa, 0xbb}))
			require.Equal(t, []string{r.Messages[name]}, b.messages, "%s of %+v", name, r)
		}
		require.Len(t, r.Messages, prepared, "%+v", r)

		if r.Compat != "" {
			b.bundle.Control(3, []byte{5, 0x14})
			b.bundle.Control(overlay.ControlTag, []byte{0, 3, 5, 0x14}) // not for a link without index
		} else {
			b.bundle.Control(overlay.ControlTag, []byte{0, 3, 5, 0x14})
			b.bundle.Control(3, []byte{5, 0x14}) // the other way round
		}
		var got []string
		for _, s := range b.stubs {
			for _, l := range s.links {
				got = append(got, l.controls...)
			}
		}
		require.ElementsMatch(t, r.Index0, got, "%+v", r)
	}
}

func TestPrepareFailures(t *testing.T) {
	offer := "fastdp sleeve"
	_, err := newBench(t, offer, &offer, "fastdp", "sleeve")
	require.ErrorIs(t, err, errTest, "the reasons are told")
	require.NotErrorIs(t, err, overlay.ErrNoCommonOverlay, "they have two")
	require.Equal(t, fmt.Sprintf("no common overlay usable: fastdp: %v; sleeve: %v", errTest, errTest), err.Error())
	other := "geneve"
	_, err = newBench(t, offer, &other)
	require.ErrorIs(t, err, overlay.ErrNoCommonOverlay)
	_, err = newBench(t, "fastdp", nil)
	require.ErrorIs(t, err, overlay.ErrNoCommonOverlay, "a peer without the feature needs sleeve")

	b, err := newBench(t, offer, &offer, "fastdp")
	require.NoError(t, err)
	b.bundle.Confirm()
	require.Equal(t, "sleeve", b.bundle.Status().Overlay)
	st := b.bundle.Statuses()
	require.Len(t, st, 2)
	require.Equal(t, overlay.LinkStatus{Overlay: "fastdp", Reason: errTest.Error()}, st[0])
	b.stubs["sleeve"].last().Report(overlay.Event{Kind: overlay.Established})
	require.Equal(t, []overlay.EventKind{overlay.Established}, b.kinds())
}

func TestBundleReportsFirstAndLast(t *testing.T) {
	b, fast, slow := both(t)
	require.Equal(t, "fast", b.bundle.Status().Overlay, "before anything is established: the first")
	slow.Report(overlay.Event{Kind: overlay.Established})
	require.Equal(t, "slow", b.bundle.Status().Overlay)
	fast.Report(overlay.Event{Kind: overlay.Established})
	require.Equal(t, "fast", b.bundle.Status().Overlay)
	require.Equal(t, []overlay.EventKind{overlay.Established}, b.kinds(), "only the first link is news")

	fast.Report(overlay.Event{Kind: overlay.OnHold, Err: errTest})
	require.Equal(t, "slow", b.bundle.Status().Overlay)
	fast.Report(overlay.Event{Kind: overlay.Healthy})
	require.Equal(t, "fast", b.bundle.Status().Overlay)

	fast.Report(overlay.Event{Kind: overlay.Failed, Err: errTest})
	require.Equal(t, "slow", b.bundle.Status().Overlay)
	fast.Report(overlay.Event{Kind: overlay.Established}) // nothing counts after Failed
	require.Equal(t, "slow", b.bundle.Status().Overlay)
	b.bundle.Control(overlay.ControlTag, []byte{0, 1})
	require.Empty(t, fast.controls, "a failed link gets none")

	slow.Report(overlay.Event{Kind: overlay.Failed, Err: errTest})
	require.Equal(t, []overlay.EventKind{overlay.Established, overlay.Failed}, b.kinds())
	require.ErrorIs(t, b.events[1].Err, errTest)
	require.ErrorContains(t, b.events[1].Err, "fast: ")
	require.ErrorContains(t, b.events[1].Err, "slow: ")
	require.Equal(t, overlay.LinkStatus{}, b.bundle.Status())

	slow.Report(overlay.Event{Kind: overlay.Healthy})
	require.Len(t, b.kinds(), 2, "nothing after Failed")
	b.bundle.Close()
	b.bundle.Close()
	for _, l := range []*stubLink{fast, slow} {
		confirmed, closed := l.times()
		require.Equal(t, 1, confirmed)
		require.NotZero(t, closed)
	}
}

func TestBundleAfterClose(t *testing.T) {
	offer := "fast slow"
	b, err := newBench(t, offer, &offer)
	require.NoError(t, err)
	fast := b.stubs["fast"].last()
	b.bundle.Close()
	b.bundle.Confirm()
	b.bundle.Control(overlay.ControlTag, []byte{0, 1})
	fast.Report(overlay.Event{Kind: overlay.Established})
	confirmed, closed := fast.times()
	require.Zero(t, confirmed)
	require.Equal(t, 1, closed)
	require.Empty(t, fast.controls)
	require.Empty(t, b.kinds())
}

// TestBundleReportsInOrder has links report from many goroutines: the mesh hears Established before Failed, once each.
func TestBundleReportsInOrder(t *testing.T) {
	for range 100 {
		b, fast, slow := both(t)
		var wg sync.WaitGroup
		for _, l := range []*stubLink{fast, slow} {
			wg.Go(func() {
				l.Report(overlay.Event{Kind: overlay.Established})
				l.Report(overlay.Event{Kind: overlay.OnHold})
				l.Report(overlay.Event{Kind: overlay.Failed, Err: errTest})
			})
		}
		wg.Wait()
		require.Equal(t, []overlay.EventKind{overlay.Established, overlay.Failed}, b.kinds())
		b.bundle.Close()
	}
}

// TestOneConnectionTakesOver: a second connection to a peer replaces the first, whose end does not disturb it.
func TestOneConnectionTakesOver(t *testing.T) {
	s := &stub{name: "x"}
	sw := newSwitch(t, nil, s)
	first, second := link(t, sw, peerB, "x"), link(t, sw, peerB, "x")
	first.Close()
	feed := s.links[1].Receive
	sw.Forwarder().SetRoutes(hopTo(peerB))
	feed([]overlay.Frame{{Data: ethernet("52:54:00:00:00:01", "52:54:00:00:00:02"), Src: peerC, Dst: peerB}})
	require.Len(t, s.links[1].take(), 1)
	second.Close()
	feed([]overlay.Frame{{Data: ethernet("52:54:00:00:00:01", "52:54:00:00:00:02"), Src: peerC, Dst: peerB}})
	require.Equal(t, map[string]uint64{"no_link": 1}, sw.Status().Drops)
}

func TestNewSwitchRefuses(t *testing.T) {
	good := &stub{name: "sleeve"}
	for name, c := range map[string]overlay.SwitchConfig{
		"no name":          {Overlays: []overlay.Overlay{good}},
		"no overlay":       {Self: peerA},
		"twice":            {Self: peerA, Overlays: []overlay.Overlay{good, good}},
		"nameless":         {Self: peerA, Overlays: []overlay.Overlay{&stub{}}},
		"space":            {Self: peerA, Overlays: []overlay.Overlay{&stub{name: "a b"}}},
		"order that fails": {Self: peerA, Overlays: []overlay.Overlay{good, &stub{name: "fastdp"}}},
	} {
		_, err := overlay.NewSwitch(c)
		require.Error(t, err, name)
	}
	s := newSwitch(t, nil, &stub{name: "fastdp"}, good)
	require.Equal(t, "fastdp sleeve", s.Offer())
}

func FuzzBundleControl(f *testing.F) {
	f.Add(byte(7), []byte{0, 3, 5, 0x14}, false)
	f.Add(byte(7), []byte{1, 1, 0xaa, 0xbb}, false)
	f.Add(byte(7), []byte{2, 1}, false)
	f.Add(byte(7), []byte{255}, false)
	f.Add(byte(7), []byte{}, false)
	f.Add(byte(3), []byte{5, 0x14}, true)
	f.Fuzz(func(t *testing.T, tag byte, payload []byte, legacy bool) {
		offer := "fastdp sleeve"
		theirs := &offer
		if legacy {
			theirs = nil
		}
		b, err := newBench(t, offer, theirs)
		require.NoError(t, err)
		b.bundle.Control(tag, payload)
		var got []string
		for _, s := range b.stubs {
			for _, l := range s.links {
				got = append(got, l.controls...)
			}
		}
		var want []string
		switch names := strings.Fields(offer); {
		case legacy && tag != overlay.ControlTag:
			want = []string{fmt.Sprintf("sleeve tag=%d payload=%s", tag, hex.EncodeToString(payload))}
		case !legacy && tag == overlay.ControlTag && len(payload) >= 2 && int(payload[0]) < len(names):
			want = []string{fmt.Sprintf("%s tag=%d payload=%x", names[payload[0]], payload[1], payload[2:])}
		}
		require.Equal(t, want, got)
	})
}

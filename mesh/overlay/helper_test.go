package overlay_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

const (
	peerA peer.Name = 0x0a0000000001
	peerB peer.Name = 0x0a0000000002
	peerC peer.Name = 0x0a0000000003
	peerD peer.Name = 0x0a0000000004
)

func loadVectors(t *testing.T, file string, into any) {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, into))
}

// stub is an overlay whose links do as the test says and keep what they are given.
type stub struct {
	name    string
	fail    error                         // of Prepare
	carries func(src, dst peer.Name) bool // if set, the links are those of a datapath

	mu    sync.Mutex
	links []*stubLink
}

func (s *stub) Name() string { return s.name }

func (s *stub) Prepare(p overlay.Params) (overlay.Link, error) {
	l := &stubLink{overlay: s, Params: p}
	if s.fail != nil {
		return l, s.fail
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links = append(s.links, l)
	if s.carries != nil {
		return datapathLink{l}, nil
	}
	return l, nil
}

func (s *stub) last() *stubLink {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links[len(s.links)-1]
}

// datapathLink is a link whose frames from this host go another way.
type datapathLink struct{ *stubLink }

func (l datapathLink) Carries(src, dst peer.Name) bool { return l.overlay.carries(src, dst) }

type stubLink struct {
	overlay.Params
	overlay *stub
	onSend  func([]overlay.Frame) // if set, instead of keeping them

	mu        sync.Mutex
	confirmed int
	closed    int
	controls  []string
	sent      []overlay.Frame
}

func (l *stubLink) Confirm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.confirmed++
}

func (l *stubLink) Send(frames []overlay.Frame) {
	if l.onSend != nil {
		l.onSend(frames)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range frames {
		f.Data = append([]byte(nil), f.Data...)
		l.sent = append(l.sent, f)
	}
}

func (l *stubLink) take() []overlay.Frame {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := l.sent
	l.sent = nil
	return sent
}

func (l *stubLink) Control(tag byte, payload []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.controls = append(l.controls, fmt.Sprintf("%s tag=%d payload=%x", l.overlay.name, tag, payload))
}

func (l *stubLink) Status() overlay.LinkStatus { return overlay.LinkStatus{Overlay: l.overlay.name} }

func (l *stubLink) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed++
}

func (l *stubLink) times() (confirmed, closed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.confirmed, l.closed
}

var errTest = errors.New("as asked")

// ethernet makes a frame of 60 bytes.
func ethernet(dst, src string) []byte {
	d, err := overlay.ParseMAC(dst)
	if err != nil {
		panic(err)
	}
	s, err := overlay.ParseMAC(src)
	if err != nil {
		panic(err)
	}
	frame := append(append(make([]byte, 0, 60), d[:]...), s[:]...)
	return append(frame, make([]byte, 48)...)
}

func newSwitch(t testing.TB, port overlay.Port, overlays ...overlay.Overlay) *overlay.Switch {
	t.Helper()
	s, err := overlay.NewSwitch(overlay.SwitchConfig{Self: peerA, Overlays: overlays, Port: port})
	require.NoError(t, err)
	return s
}

// link makes a confirmed bundle to a neighbour.
func link(t testing.TB, s *overlay.Switch, remote peer.Name, offer string) *overlay.Bundle {
	t.Helper()
	b, err := s.Prepare(
		overlay.Params{Self: peerA, Remote: remote, Outbound: true, Features: map[string]string{overlay.FeatureKey: offer}},
		func(byte, []byte) error { return nil }, func(overlay.Event) {})
	require.NoError(t, err)
	b.Confirm()
	return b
}

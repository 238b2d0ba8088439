package sleeve_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/port"
)

// node is all that a host has of an overlay: a socket on the underlay, a switch, and a TAP device on which the host itself is
// the station, with the address 10.60.0.N.
type node struct {
	*overlay.Switch
	host  *lab.Host
	name  peer.Name
	under netip.AddrPort
	tap   *port.TAP
}

func (n *node) addr() string { return fmt.Sprintf("10.60.0.%d", n.name) }

// newNode starts a node on a host. Its neighbours are those with the names before and behind its own.
func newNode(t *testing.T, h *lab.Host, name, last peer.Name, under string, which string) *node {
	t.Helper()
	n := &node{host: h, name: name, under: netip.AddrPortFrom(netip.MustParseAddr(under), 6783)}
	var socket *sleeve.Socket
	err := h.Do(func() (err error) {
		if socket, err = sleeve.Listen(netip.AddrPortFrom(netip.Addr{}, 6783)); err != nil {
			return err
		}
		if n.tap, err = port.OpenTAP(port.TAPConfig{Name: "tap0", MTU: 8900, Queues: 2}); err != nil {
			return errors.Join(err, socket.Close())
		}
		dev, err := netlink.LinkByName("tap0")
		if err != nil {
			return err
		}
		hw := net.HardwareAddr{2, 60, 0, 0, 0, byte(name)}
		to := &net.IPNet{IP: netip.MustParseAddr(n.addr()).AsSlice(), Mask: net.CIDRMask(24, 32)}
		return errors.Join(netlink.LinkSetHardwareAddr(dev, hw), netlink.AddrAdd(dev, &netlink.Addr{IPNet: to}))
	})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skip("no TAP devices here: ", err)
	}
	require.NoError(t, err)
	var o overlay.Overlay
	o = start(t, name, socket)
	if which == sleeve.Name2 {
		o = o.(*sleeve.Overlay).Sleeve2()
	}
	n.Switch, err = overlay.NewSwitch(overlay.SwitchConfig{Self: name, Overlays: []overlay.Overlay{o}, Port: n.tap})
	require.NoError(t, err)
	n.Forwarder().SetRoutes(line{name, last})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return n
}

// joinNodes connects two neighbours, of which the first dials, and returns their bundles.
func joinNodes(t *testing.T, a, b *node, which string, key *[32]byte) [2]*overlay.Bundle {
	t.Helper()
	established := make(chan overlay.EventKind, 16)
	var bundles [2]*overlay.Bundle
	type message struct {
		tag     byte
		payload []byte
	}
	var inbox [2]chan message
	for i, p := range []overlay.Params{
		{Self: a.name, Remote: b.name, Local: a.under, RemoteAddr: b.under, Outbound: true},
		{Self: b.name, Remote: a.name, Local: b.under, RemoteAddr: netip.AddrPortFrom(a.under.Addr(), 1)},
	} {
		inbox[i] = make(chan message, 1024)
		p.ConnUID, p.Key, p.Features = uint64(a.name), key, map[string]string{overlay.FeatureKey: which}
		var err error
		bundles[i], err = []*node{a, b}[i].Prepare(p, func(tag byte, payload []byte) error {
			inbox[1-i] <- message{tag, bytes.Clone(payload)}
			return nil
		}, func(e overlay.Event) { established <- e.Kind })
		require.NoError(t, err)
	}
	var running sync.WaitGroup
	for i, in := range inbox {
		running.Go(func() {
			for m := range in {
				bundles[i].Control(m.tag, m.payload)
			}
		})
	}
	t.Cleanup(func() {
		for i := range bundles {
			bundles[i].Close()
		}
		for i := range inbox {
			close(inbox[i])
		}
		running.Wait()
	})
	bundles[0].Confirm()
	bundles[1].Confirm()
	for range bundles {
		require.Equal(t, overlay.Established, <-established)
	}
	return bundles
}

// stream is a TCP connection over the overlay on which data goes one way until the test ends.
type stream struct {
	received atomic.Int64
	out      net.Conn
}

// startStream has one node send to another without end, and checks what arrives.
func startStream(t *testing.T, from, to *node) *stream {
	t.Helper()
	listener, err := to.host.Listen("tcp", to.addr()+":0")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := from.host.DialContext(ctx, "tcp", listener.Addr().String())
	require.NoError(t, err)
	s := &stream{out: out}
	in, err := listener.Accept()
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		block := make([]byte, 64<<10)
		for i := uint64(0); ; {
			for at := 0; at < len(block); at += 8 {
				binary.BigEndian.PutUint64(block[at:], i)
				i++
			}
			if _, err := out.Write(block); err != nil {
				return
			}
		}
	})
	wrong := atomic.Bool{}
	running.Go(func() {
		block := make([]byte, 64<<10)
		for i := uint64(0); ; {
			if _, err := io.ReadFull(in, block); err != nil {
				return
			}
			for at := 0; at < len(block); at += 8 {
				if binary.BigEndian.Uint64(block[at:]) != i {
					wrong.Store(true)
				}
				i++
			}
			s.received.Add(int64(len(block)))
		}
	})
	t.Cleanup(func() {
		_, _, _ = listener.Close(), out.Close(), in.Close()
		running.Wait()
		require.False(t, wrong.Load(), "the stream was damaged")
	})
	return s
}

// pace has the sender's TCP go slowly, so that a stream can run for long beside others.
func (s *stream) pace(t *testing.T, bytesPerSecond int) {
	t.Helper()
	raw, err := s.out.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	var set error
	require.NoError(t, raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, bytesPerSecond)
	}))
	require.NoError(t, set)
}

// requireFlows waits until more has arrived.
func (s *stream) requireFlows(t *testing.T, bytes int64) {
	t.Helper()
	want := s.received.Load() + bytes
	require.Eventually(t, func() bool { return s.received.Load() >= want }, 30*time.Second, time.Millisecond,
		"%d bytes more, have %d of them", bytes, s.received.Load()-want+bytes)
}

// requireNothingWrong looks at the drops of links: none may say that something was not as it was sent.
func requireNothingWrong(t *testing.T, bundles ...*overlay.Bundle) {
	t.Helper()
	for _, b := range bundles {
		for reason, n := range b.Status().Drops {
			switch reason {
			case "too_big", "too_big_answered", "path_too_small", "socket": // of TCP that has to learn what fits
			case "no_address": // of a host that looks around before the link is there
			case "before_hello": // pings do not wait for it
			default:
				require.Zero(t, n, reason)
			}
		}
	}
}

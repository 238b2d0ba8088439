package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/odp"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// Hosts that are connected by the switch talk to each other, and once they know each other the kernel switches all of it.
//
//	a --- [switch] --- b
//	         |
//	         c
func TestHostsTalk(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	l := labtest.New(t)
	middle, err := l.Host("switch")
	require.NoError(t, err)
	var hosts []*lab.Host
	var devices []string
	for i, name := range []string{"a", "b", "c"} {
		h, err := l.Host(name)
		require.NoError(t, err)
		address := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 24)
		link, err := l.Link(h, middle, lab.LinkConfig{A: address})
		require.NoError(t, err)
		hosts, devices = append(hosts, h), append(devices, link.Device(middle))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- middle.Do(func() error { return run(ctx, devices) }) }()
	c, dp := awaitPorts(t, middle, len(devices)+1)

	for range 2 {
		before := switched(t, c, dp)
		for i, from := range hosts {
			to := (i + 1) % len(hosts)
			transfer(t, from, hosts[to], netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(to + 1)}), 7000))
		}
		if len(before) == 0 {
			continue // the hosts did not know each other, and their first packets came up
		}
		after := switched(t, c, dp)
		for port := range uint32(len(hosts)) {
			require.Greater(t, after[port+1]-before[port+1], uint64(len(sent())), "the kernel switches what port %d sends", port+1)
		}
	}

	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	_, err = c.Datapath(t.Context(), "odp-switch")
	require.ErrorIs(t, err, os.ErrNotExist, "it cleans up")
}

// awaitPorts waits until the switch has its ports.
func awaitPorts(t *testing.T, h *lab.Host, want int) (c *odp.Conn, dp odp.Index) {
	t.Helper()
	require.NoError(t, h.Do(func() (err error) {
		c, err = odp.Open(t.Context(), odp.Config{})
		return err
	}))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.Eventually(t, func() bool {
		d, err := c.Datapath(t.Context(), "odp-switch")
		if errors.Is(err, os.ErrNotExist) {
			return false
		}
		require.NoError(t, err)
		n := 0
		for _, err := range c.Vports(t.Context(), d.Index) {
			require.NoError(t, err)
			n++
		}
		dp = d.Index
		return n == want
	}, time.Minute, 5*time.Millisecond)
	return c, dp
}

// switched returns how many bytes from each port went by a flow.
func switched(t *testing.T, c *odp.Conn, dp odp.Index) map[uint32]uint64 {
	t.Helper()
	bytes := map[uint32]uint64{}
	for f, err := range c.Flows(t.Context(), dp, odp.DumpOptions{}) {
		require.NoError(t, err)
		port, _, ok := odp.Get[odp.InPort](f.Match)
		require.True(t, ok)
		bytes[uint32(port)] += f.Stats.Bytes
	}
	return bytes
}

// sent is what goes through the switch.
func sent() []byte { return bytes.Repeat([]byte("a word or two "), 100_000) }

// transfer sends it over TCP.
func transfer(t *testing.T, from, to *lab.Host, at netip.AddrPort) {
	t.Helper()
	ln, err := to.Listen("tcp", at.String())
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		conn, err := from.DialContext(t.Context(), "tcp", at.String())
		if err != nil {
			_ = ln.Close()
			return
		}
		_, _ = conn.Write(sent())
		_ = conn.Close()
	}()
	require.NoError(t, ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute)))
	conn, err := ln.Accept()
	require.NoError(t, err)
	defer conn.Close()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent(), got))
}

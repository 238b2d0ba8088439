package ipsec_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// capture looks at every packet that a machine puts on the underlay and gets from it.
type capture struct {
	t          *testing.T
	fd         int
	from       netip.Addr
	clear, esp atomic.Uint64
	read       atomic.Uint64
	queued     uint64 // for the socket, so far
	stop       func()

	mu   sync.Mutex
	last []byte // packet of ESP that the machine sent, from its IP header on
}

func startCapture(t *testing.T, m *machine) *capture {
	c := &capture{t: t, from: m.addr}
	require.NoError(t, m.at.Do(func() (err error) {
		c.fd, err = openCapture(m.device)
		return err
	}))
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { c.run(ended) })
	c.stop = sync.OnceFunc(func() {
		close(ended)
		wg.Wait()
		_ = unix.Close(c.fd)
	})
	t.Cleanup(c.stop)
	return c
}

func openCapture(device string) (int, error) {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return 0, err
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, testBuffers),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}))
}

func (c *capture) run(ended chan struct{}) {
	b := make([]byte, 65536)
	for {
		n, err := unix.Read(c.fd, b)
		if err == unix.EAGAIN || err == unix.EINTR {
			select {
			case <-ended:
				return
			default:
				continue
			}
		}
		if err != nil {
			return
		}
		c.see(b[:n])
		c.read.Add(1)
	}
}

// settle waits until all is read that has passed, of which nothing may have been missed.
func (c *capture) settle() {
	c.t.Helper()
	st, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS) // since the last time
	require.NoError(c.t, err)
	require.Zero(c.t, st.Drops, "packets that the capture missed")
	c.queued += uint64(st.Packets)
	require.Eventually(c.t, func() bool { return c.read.Load() >= c.queued }, patience, time.Millisecond)
}

// requireNoneClear requires that no packet was in the clear.
func (c *capture) requireNoneClear() {
	c.t.Helper()
	c.settle()
	require.Zero(c.t, c.clear.Load(), "packets in the clear")
}

// packet returns the last packet of ESP that the machine sent.
func (c *capture) packet() []byte {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.last...)
}

func (c *capture) see(b []byte) {
	if len(b) < 48 {
		return
	}
	at, protocol, src := int(b[0]&15)*4, b[9], netip.AddrFrom4([4]byte(b[12:]))
	if b[0]>>4 == 6 {
		at, protocol, src = 40, b[6], netip.AddrFrom16([16]byte(b[8:]))
	}
	switch {
	case protocol == unix.IPPROTO_ESP:
		c.esp.Add(1)
		if src == c.from {
			c.mu.Lock()
			c.last = append(c.last[:0], b...)
			c.mu.Unlock()
		}
	case protocol == unix.IPPROTO_UDP && len(b) >= at+4 && binary.BigEndian.Uint16(b[at+2:]) == tunnelPort:
		c.clear.Add(1)
	}
}

package fastdp_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/mesh/overlay"
)

const tapName = "tap-overlay"

// tap is a TAP device as the port of a switch, one frame at a time.
type tap struct{ f *os.File }

var _ overlay.Port = (*tap)(nil)

// openTap makes a TAP device on a host.
func openTap(t *testing.T, at *site) *tap {
	t.Helper()
	var p tap
	require.NoError(t, at.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(tapName)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("TUNSETIFF: %w", err)
		}
		p.f = os.NewFile(uintptr(fd), "/dev/net/tun")
		l, err := netlink.LinkByName(tapName)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMTU(l, fastdp.DefaultMTU), netlink.LinkSetUp(l))
	}))
	return &p
}

func (p *tap) Name() string { return tapName }
func (p *tap) MTU() int     { return fastdp.DefaultMTU }
func (p *tap) Close() error { return p.f.Close() }

func (p *tap) Read(bufs [][]byte, sizes []int) (int, error) {
	n, err := p.f.Read(bufs[0])
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	sizes[0] = n
	return min(1, n), err
}

func (p *tap) Write(frames [][]byte) error {
	for _, f := range frames {
		if _, err := p.f.Write(f); errors.Is(err, os.ErrClosed) {
			return err
		}
	}
	return nil
}

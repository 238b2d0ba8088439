package fastdp

import (
	"errors"
	"fmt"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Names of the overlays in the mesh's handshake.
const (
	Name  = "fastdp"
	Name2 = "fastdp2"
)

var (
	// ErrNoAddress is wrapped by errors of Prepare: the addresses of the connection are not such that a tunnel can be made
	// between them.
	ErrNoAddress = errors.New("no usable addresses for a tunnel")
	// ErrNoProtector is wrapped by errors of Prepare: the connection is to be encrypted, and nothing encrypts in the kernel.
	ErrNoProtector = errors.New("no encryption in the kernel configured")
	// ErrSuperseded is wrapped by errors of Prepare: the connection has a link of fastdp2, so that it needs none of fastdp.
	ErrSuperseded = errors.New("fastdp2 is used instead")
)

// tunnels is an overlay of a datapath: fastdp or fastdp2.
type tunnels struct {
	d    *Datapath
	name string
}

var _ overlay.Overlay = (*tunnels)(nil)

// Name implements [overlay.Overlay].
func (o *tunnels) Name() string { return o.name }

// Prepare implements [overlay.Overlay].
func (o *tunnels) Prepare(p overlay.Params) (overlay.Link, error) {
	l := &link{d: o.d, name: o.name, params: p, outer: outer{src: p.Local.Addr().Unmap(), dst: p.RemoteAddr.Addr().Unmap()}}
	if err := o.check(p, l.outer); err != nil {
		return nil, fmt.Errorf("fastdp: %w", err)
	}
	l.udp = o.d.cfg.Port
	if p.Outbound {
		l.udp = p.RemoteAddr.Port() + 1
	}
	l.init()
	if o.name == Name2 {
		o.d.noteSecond(p.ConnUID, true)
	}
	o.d.wantTunnel(l.udp)
	return l, nil
}

// check checks what a link is to be made of.
func (o *tunnels) check(p overlay.Params, ends outer) error {
	switch {
	case p.Self != o.d.cfg.Self || !p.Remote.IsValid() || p.Remote == p.Self:
		return fmt.Errorf("link from %s to %s: %w", p.Self, p.Remote, peer.ErrInvalidName)
	case p.SendControl == nil || p.Report == nil || p.Receive == nil:
		return errors.New("link without functions")
	case !ends.src.IsValid() || !ends.dst.IsValid() || ends.src.Is4() != ends.dst.Is4() || ends.dst.IsUnspecified() || ends.src.IsUnspecified():
		return fmt.Errorf("%w: %s and %s", ErrNoAddress, ends.src, ends.dst)
	case ends.src.Zone() != "" || ends.dst.Zone() != "":
		return fmt.Errorf("%w: %s and %s: the kernel's tunnels have no zones", ErrNoAddress, ends.src, ends.dst)
	case p.Outbound && (p.RemoteAddr.Port() == 0 || p.RemoteAddr.Port() == 65535):
		return fmt.Errorf("%w: port %d", ErrNoAddress, p.RemoteAddr.Port())
	case p.Key != nil && o.d.cfg.Protector == nil:
		return ErrNoProtector
	case ends.src.Is6() && o.name == Name:
		return fmt.Errorf("%w: %s: IPv4 only", ErrNoAddress, ends.src)
	case o.name == Name && o.d.hasSecond(p):
		return ErrSuperseded
	}
	return nil
}

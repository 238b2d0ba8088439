package odp

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/overweave/overweave/odp/internal/nla"
)

// TunnelDevice describes a tunnel device that takes the outer addresses of each packet from flows. Made as a device of its
// own, and then attached as a vport of type Netdev, it needs no vport type of the kernel's module, says by itself what is wrong
// with it, and outlives the datapath.
type TunnelDevice struct {
	Name string    // 1 to 15 bytes
	Kind VportType // VXLAN, Geneve or GRE
	Port uint16    // UDP port of VXLAN and Geneve; 0 is 4789 and 6081
	MTU  uint32    // 0 is 65535 for VXLAN and what the kernel chooses for others
	GBP  bool      // VXLAN group policy
}

// Of rtnetlink.
const (
	rtmNewLink  = 16
	rtmDelLink  = 17
	rtmGetLink  = 18
	flagExcl    = 0x200
	iffUp       = 1
	iflaName    = 3
	iflaMTU     = 4
	iflaInfo    = 18
	infoKind    = 1
	infoData    = 2
	vxLearning  = 7
	vxPort      = 15
	vxZeroSum6  = 20
	vxGBP       = 23
	vxMetadata  = 25
	gnvPort     = 5
	gnvMetadata = 6
	gnvZeroSum6 = 10
	greMetadata = 18
)

// CreateTunnelDevice makes a device and sets it up. syscall.EEXIST says that the name or the UDP port is taken by a device,
// syscall.EADDRINUSE that the port is by a socket.
func (c *Conn) CreateTunnelDevice(ctx context.Context, d TunnelDevice) error {
	if err := checkName(d.Name); err != nil {
		return err
	}
	head := deviceBody(d.Name, iffUp)
	return c.link(ctx, "create tunnel device "+d.Name, rtmNewLink, flagCreate|flagExcl, func(e *nla.Encoder) {
		head(e)
		d.appendTo(e)
	})
}

// DeleteDevice removes a device, and by that the vport that it is attached as.
func (c *Conn) DeleteDevice(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return c.link(ctx, "delete device "+name, rtmDelLink, 0, deviceBody(name, 0))
}

// RaiseDevice sets a device up that is down, and reports whether it was. Frames for a tunnel device that is down are lost.
func (c *Conn) RaiseDevice(ctx context.Context, name string) (raised bool, err error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	up := false
	err = c.askLink(ctx, "look at device "+name, rtmGetLink, 0, deviceBody(name, 0), func(m message) error {
		_, _, rest, err := m.ovs() // as long as the headers of this family
		if err == nil && len(rest) >= 4 {
			up = he32(rest)&iffUp != 0
		}
		return err
	})
	if err != nil || up {
		return false, err
	}
	err = c.link(ctx, "set device "+name+" up", rtmNewLink, 0, deviceBody(name, iffUp))
	return err == nil, err
}

// deviceBody appends flags to set, and the name of a device.
func deviceBody(name string, flags uint32) func(e *nla.Encoder) {
	return func(e *nla.Encoder) {
		e.B = binary.NativeEndian.AppendUint32(e.B, flags)
		e.B = binary.NativeEndian.AppendUint32(e.B, flags)
		e.String(iflaName, name)
	}
}

// link sends a request about a device, by a socket of its own.
func (c *Conn) link(ctx context.Context, op string, typ, flags uint16, body func(e *nla.Encoder)) error {
	return c.askLink(ctx, op, typ, flags, body, nil)
}

func (c *Conn) askLink(ctx context.Context, op string, typ, flags uint16, body func(e *nla.Encoder), visit func(message) error) error {
	sock, err := c.dial(SocketOptions{Protocol: ProtocolRoute, ReceiveBuffer: 1 << 16})
	if err != nil {
		return opError(op, err)
	}
	route := newConn(c.cfg, sock, 1)
	defer context.AfterFunc(c.life, func() { _ = route.Close() })()
	err = route.do(ctx, op, request{family: family{id: typ}, flags: flags, body: body}, visit)
	return errors.Join(err, route.Close())
}

func (d TunnelDevice) appendTo(e *nla.Encoder) {
	mtu := d.MTU
	if mtu == 0 && d.Kind == VXLAN {
		mtu = 65535
	}
	if mtu != 0 {
		e.U32(iflaMTU, mtu)
	}
	info := e.Begin(iflaInfo)
	switch d.Kind {
	case VXLAN:
		e.String(infoKind, "vxlan")
		data := e.Begin(infoData)
		e.U8(vxMetadata, 1)
		e.U8(vxLearning, 0)
		e.U8(vxZeroSum6, 1)
		e.BE16(vxPort, orDefault(d.Port, 4789))
		if d.GBP {
			e.Flag(vxGBP)
		}
		e.End(data)
	case Geneve:
		e.String(infoKind, "geneve")
		data := e.Begin(infoData)
		e.Flag(gnvMetadata)
		e.U8(gnvZeroSum6, 1)
		e.BE16(gnvPort, orDefault(d.Port, 6081))
		e.End(data)
	case GRE:
		e.String(infoKind, "gretap")
		data := e.Begin(infoData)
		e.Flag(greMetadata)
		e.End(data)
	default:
		e.Fail(&FlowError{Field: "tunnel device", Reason: d.Kind.String() + " is not a kind of tunnel"})
	}
	e.End(info)
}

func orDefault(port, otherwise uint16) uint16 {
	if port == 0 {
		return otherwise
	}
	return port
}

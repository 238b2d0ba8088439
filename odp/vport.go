package odp

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"syscall"

	"github.com/overweave/overweave/odp/internal/nla"
)

// VportType is the kind of a vport.
type VportType uint32

// Kinds of vports. The tunnel kinds can also be had as devices of their own, attached as Netdev: see [Conn.CreateTunnelDevice].
const (
	Netdev   VportType = 1 // an existing device
	Internal VportType = 2 // a new device; what the host sends to it enters the datapath
	GRE      VportType = 3
	VXLAN    VportType = 4
	Geneve   VportType = 5
)

// String returns the name that ovs-dpctl uses.
func (t VportType) String() string {
	switch t {
	case Netdev:
		return "netdev"
	case Internal:
		return "internal"
	case GRE:
		return "gre"
	case VXLAN:
		return "vxlan"
	case Geneve:
		return "geneve"
	}
	return fmt.Sprintf("type%d", uint32(t))
}

// LocalPort is the number of a datapath's own device.
const LocalPort = 0

// AnyPort in a [VportSpec] has the kernel choose the number.
const AnyPort = ^uint32(0)

// Vport describes a port of a datapath. Statistics are from when it was read.
type Vport struct {
	Datapath    Index
	Number      uint32
	Type        VportType
	Name        string
	UpcallPIDs  []uint32
	Ifindex     int32 // of its device; 0 if the kernel does not say
	NetNSID     int32 // of the device's namespace, if InOtherNS
	InOtherNS   bool
	DstPort     uint16 // UDP port of a tunnel
	GBP         bool   // VXLAN group policy
	Stats       VportStats
	UpcallStats *UpcallStats // since Linux 6.2
	Unknown     []Attr
}

// VportStats counts what went through a vport.
type VportStats struct {
	RxPackets, TxPackets, RxBytes, TxBytes, RxErrors, TxErrors, RxDropped, TxDropped uint64
}

// UpcallStats counts the packets of a vport that user space was to see.
type UpcallStats struct{ Sent, Lost uint64 }

// VportSpec describes a vport to be made.
type VportSpec struct {
	Name string // of the device, 1 to 15 bytes
	Type VportType
	// Number is the wanted number, 1 to 65534; 0 or AnyPort has the kernel choose.
	Number uint32
	// UpcallPIDs are the sockets for misses; a flow's packets go to one of them. None means that misses are lost, unless the
	// datapath has feature PerCPU. More than one needs feature VportPIDs.
	UpcallPIDs []uint32
	DstPort    uint16 // UDP port of VXLAN and Geneve; 0 is 4789 and 6081
	GBP        bool   // VXLAN group policy
}

// CreateVport makes a vport. syscall.EEXIST says that the name is taken, syscall.EBUSY that the number is or that the device
// belongs to a bridge, syscall.EADDRINUSE that a tunnel's UDP port is.
func (c *Conn) CreateVport(ctx context.Context, dp Index, spec VportSpec) (Vport, error) {
	op := "create vport " + spec.Name
	if err := checkName(spec.Name); err != nil {
		return Vport{}, opError(op, err)
	}
	v, err := c.vport(ctx, op, request{cmd: cmdNew, flags: flagEcho, dp: dp, body: spec.appendTo})
	if errors.Is(err, syscall.EAFNOSUPPORT) {
		err = &UnsupportedError{
			Feature: "vport type " + spec.Type.String(), Kernel: kernelRelease(), Err: err,
			Hint: "attach a device made by CreateTunnelDevice, or get the kernel module vport-" + spec.Type.String(),
		}
	}
	return v, err
}

func (s VportSpec) appendTo(e *nla.Encoder) {
	e.String(vportName, s.Name)
	e.U32(vportType, uint32(s.Type))
	if s.Number != 0 && s.Number != AnyPort {
		e.U32(vportPortNo, s.Number)
	}
	appendPIDs(e, s.UpcallPIDs)
	port := s.DstPort
	switch {
	case s.Type == VXLAN && port == 0:
		port = 4789
	case s.Type == Geneve && port == 0:
		port = 6081
	}
	if s.Type == VXLAN || s.Type == Geneve {
		m := e.Begin(vportOptions)
		e.U16(optDstPort, port) // in the machine's byte order, unlike all other ports
		if s.GBP {
			ext := e.Begin(optExtension)
			e.Flag(extGBP)
			e.End(ext)
		}
		e.End(m)
	}
}

// appendPIDs appends the sockets; the kernel wants at least one, and 0 is none.
func appendPIDs(e *nla.Encoder, pids []uint32) {
	if len(pids) == 0 {
		pids = []uint32{0}
	}
	e.U32s(vportUpcallPID, pids)
}

// SetUpcallPIDs replaces the sockets for the misses of a vport; none means that they are lost.
func (c *Conn) SetUpcallPIDs(ctx context.Context, dp Index, number uint32, pids ...uint32) (Vport, error) {
	return c.vport(ctx, fmt.Sprintf("set the upcall sockets of port %d", number), request{cmd: cmdSet, flags: flagEcho, dp: dp,
		body: func(e *nla.Encoder) {
			e.U32(vportPortNo, number)
			appendPIDs(e, pids)
		}})
}

// Vport finds a vport by its name, in whatever datapath. errors.Is(err, os.ErrNotExist) if there is none.
func (c *Conn) Vport(ctx context.Context, name string) (Vport, error) {
	op := "find vport " + name
	if err := checkName(name); err != nil {
		return Vport{}, opError(op, err)
	}
	return c.vport(ctx, op, request{cmd: cmdGet, body: func(e *nla.Encoder) { e.String(vportName, name) }})
}

// VportByNumber finds a vport by its number.
func (c *Conn) VportByNumber(ctx context.Context, dp Index, number uint32) (Vport, error) {
	return c.vport(ctx, fmt.Sprintf("find port %d", number), request{cmd: cmdGet, dp: dp,
		body: func(e *nla.Encoder) { e.U32(vportPortNo, number) }})
}

// DeleteVport removes a vport; a device that was attached stays. The local port cannot be removed.
func (c *Conn) DeleteVport(ctx context.Context, dp Index, number uint32) error {
	return c.do(ctx, fmt.Sprintf("delete port %d", number), request{family: c.families.vport, cmd: cmdDel, dp: dp,
		body: func(e *nla.Encoder) { e.U32(vportPortNo, number) }}, nil)
}

// Vports lists the vports of a datapath. The list is complete before the loop begins; an error ends it.
func (c *Conn) Vports(ctx context.Context, dp Index) iter.Seq2[Vport, error] {
	return list(ctx, c, "list vports", request{family: c.families.vport, cmd: cmdGet, dp: dp}, decodeVport)
}

func (c *Conn) vport(ctx context.Context, op string, r request) (v Vport, err error) {
	r.family = c.families.vport
	err = c.object(ctx, op, r, func(dp Index, attrs []byte) (err error) {
		v, err = decodeVport(dp, attrs)
		return err
	})
	return v, err
}

func decodeVport(dp Index, b []byte) (Vport, error) {
	v := Vport{Datapath: dp}
	err := parts("vport", b, v.decodePart)
	return v, err
}

func (v *Vport) decodePart(typ uint16, p []byte) error {
	switch {
	case typ == vportName:
		v.Name = cString(p)
	case typ == vportPortNo && len(p) == 4:
		v.Number = he32(p)
	case typ == vportType && len(p) == 4:
		v.Type = VportType(he32(p))
	case typ == vportUpcallPID:
		v.UpcallPIDs = u32s(p)
	case typ == vportIfindex && len(p) == 4:
		v.Ifindex = int32(he32(p))
	case typ == vportNetNSID && len(p) == 4:
		v.NetNSID, v.InOtherNS = int32(he32(p)), true
	case typ == vportStats && len(p) >= 64:
		v.Stats = VportStats{
			RxPackets: he64(p), TxPackets: he64(p[8:]), RxBytes: he64(p[16:]), TxBytes: he64(p[24:]),
			RxErrors: he64(p[32:]), TxErrors: he64(p[40:]), RxDropped: he64(p[48:]), TxDropped: he64(p[56:]),
		}
	case typ == vportOptions:
		return parts("vport", p, v.decodeOption)
	case typ == vportUpcallStats:
		v.UpcallStats = new(UpcallStats)
		return parts("vport", p, v.UpcallStats.decodePart)
	case typ == vportPad:
	case typ <= vportUpcallStats:
		return short("vport", typ)
	default:
		v.Unknown = append(v.Unknown, cloneAttr(typ, p))
	}
	return nil
}

func (v *Vport) decodeOption(typ uint16, p []byte) error {
	switch {
	case typ == optDstPort && len(p) == 2:
		v.DstPort = he16(p)
	case typ == optExtension:
		return parts("vport", p, func(typ uint16, _ []byte) error {
			v.GBP = v.GBP || typ == extGBP
			return nil
		})
	}
	return nil
}

// decodePart knows that the first attribute has type 0, against custom.
func (s *UpcallStats) decodePart(typ uint16, p []byte) error {
	if len(p) == 8 {
		switch typ {
		case 0:
			s.Sent = he64(p)
		case 1:
			s.Lost = he64(p)
		}
	}
	return nil
}

package odp

import (
	"context"
	"iter"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Features are what user space tells the kernel that it can do, for one datapath.
type Features uint32

// Features of user space.
const (
	// Unaligned says that the packet in an upcall may end without padding; it lets the kernel copy less. This package copes.
	Unaligned Features = 1 << iota
	// VportPIDs says that vports may have several upcall sockets.
	VportPIDs
	// TCRecircSharing has tc give its recirculation ids on.
	TCRecircSharing
	// PerCPU has misses go to a socket chosen by CPU instead of one chosen by vport. Since Linux 5.15.
	PerCPU
)

// Datapath describes a datapath. Statistics are from when it was read.
type Datapath struct {
	Index      Index
	Name       string // of the local port, port 0
	Features   Features
	UpcallPIDs []uint32 // by CPU, with feature PerCPU
	Stats      DatapathStats
	Masks      MaskStats
	MasksCache uint32 // entries per CPU; since Linux 5.9
	Unknown    []Attr // of newer kernels
}

// DatapathStats counts packets.
type DatapathStats struct {
	Hit    uint64 // that matched a flow
	Missed uint64 // that matched none
	Lost   uint64 // of those, that could not be handed to user space: full queue, no socket
	Flows  uint64 // flows there are
}

// MaskStats counts what looking up flows costs.
type MaskStats struct {
	Hit      uint64 // masks tried, all packets together
	Masks    uint32 // masks there are
	CacheHit uint64 // packets whose mask was guessed right
}

// DatapathSpec describes a datapath to be made.
type DatapathSpec struct {
	// Name of the datapath and of its local port, a new network device: 1 to 15 bytes.
	Name string
	// Features are Unaligned and VportPIDs if 0.
	Features Features
	// UpcallPID is the socket for misses of the local port; 0 is none.
	UpcallPID uint32
	// UpcallPIDs, with feature PerCPU, are the sockets by CPU; a CPU beyond the last counts modulo their number.
	UpcallPIDs []uint32
}

// CreateDatapath makes a datapath. It stays until it is deleted, also after the end of this process.
func (c *Conn) CreateDatapath(ctx context.Context, spec DatapathSpec) (Datapath, error) {
	op := "create datapath " + spec.Name
	if err := checkName(spec.Name); err != nil {
		return Datapath{}, opError(op, err)
	}
	if spec.Features == 0 {
		spec.Features = Unaligned | VportPIDs
	}
	dp, err := c.datapath(ctx, op, spec.request())
	return dp, c.explainFeatures(ctx, spec.Features, err)
}

func (s DatapathSpec) request() request {
	return request{cmd: cmdNew, flags: flagEcho, body: func(e *nla.Encoder) {
		e.String(dpName, s.Name)
		e.U32(dpUpcallPID, s.UpcallPID)
		appendFeatures(e, s.Features, s.UpcallPIDs)
	}}
}

// appendFeatures always sends the feature word: the kernel takes a missing one for 0.
func appendFeatures(e *nla.Encoder, f Features, pids []uint32) {
	e.U32(dpUserFeatures, uint32(f))
	if f&PerCPU != 0 && len(pids) > 0 {
		e.U32s(dpPerCPUPIDs, pids)
	}
}

// SetFeatures replaces a datapath's features. With PerCPU, pids are the new sockets by CPU, nil for those it had.
func (c *Conn) SetFeatures(ctx context.Context, dp Index, f Features, pids []uint32) (Datapath, error) {
	d, err := c.datapath(ctx, "set the features of a datapath", request{cmd: cmdSet, flags: flagEcho, dp: dp, body: func(e *nla.Encoder) {
		appendFeatures(e, f, pids)
	}})
	return d, c.explainFeatures(ctx, f, err)
}

// SetMasksCache sets the number of entries of a datapath's mask cache, per CPU; 0 switches it off. The features must be
// given again. Since Linux 5.9.
func (c *Conn) SetMasksCache(ctx context.Context, dp Index, f Features, entries uint32) (Datapath, error) {
	return c.datapath(ctx, "set the masks cache of a datapath", request{cmd: cmdSet, flags: flagEcho, dp: dp, body: func(e *nla.Encoder) {
		appendFeatures(e, f, nil)
		e.U32(dpMasksCache, entries)
	}})
}

// Datapath finds a datapath by its name. errors.Is(err, os.ErrNotExist) if there is none.
func (c *Conn) Datapath(ctx context.Context, name string) (Datapath, error) {
	op := "find datapath " + name
	if err := checkName(name); err != nil {
		return Datapath{}, opError(op, err)
	}
	return c.datapath(ctx, op, request{cmd: cmdGet, body: func(e *nla.Encoder) { e.String(dpName, name) }})
}

// DatapathByIndex finds a datapath by its index.
func (c *Conn) DatapathByIndex(ctx context.Context, dp Index) (Datapath, error) {
	return c.datapath(ctx, "find a datapath", request{cmd: cmdGet, dp: dp})
}

// DeleteDatapath removes a datapath with all its vports, flows and meters. Devices that were attached as vports stay.
func (c *Conn) DeleteDatapath(ctx context.Context, dp Index) error {
	return c.do(ctx, "delete a datapath", request{family: c.families.datapath, cmd: cmdDel, dp: dp}, nil)
}

// Datapaths lists the datapaths of the namespace. The list is complete before the loop begins; an error ends it.
func (c *Conn) Datapaths(ctx context.Context) iter.Seq2[Datapath, error] {
	return list(ctx, c, "list datapaths", request{family: c.families.datapath, cmd: cmdGet}, decodeDatapath)
}

// list makes an iterator of a listing. An object that cannot be decoded is an error of its own and does not end it.
func list[T any](ctx context.Context, c *Conn, op string, r request, decode func(Index, []byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		objects, err := c.dump(ctx, op, r)
		if err != nil {
			yield(zero, err)
			return
		}
		objects.each(func(dp Index, attrs []byte) bool { return yield(decode(dp, attrs)) })
	}
}

func (c *Conn) datapath(ctx context.Context, op string, r request) (d Datapath, err error) {
	r.family = c.families.datapath
	err = c.object(ctx, op, r, func(dp Index, attrs []byte) (err error) {
		d, err = decodeDatapath(dp, attrs)
		return err
	})
	return d, err
}

// object sends a request that is answered with one object.
func (c *Conn) object(ctx context.Context, op string, r request, decode func(Index, []byte) error) error {
	answered := false
	err := c.do(ctx, op, r, func(m message) error {
		if m.typ != r.family.id {
			return nil
		}
		_, dp, attrs, err := m.ovs()
		if err != nil {
			return err
		}
		answered = true
		return decode(dp, attrs)
	})
	if err == nil && !answered {
		err = opError(op, &DecodeError{What: "answer", Reason: "an acknowledgement and nothing else"})
	}
	return err
}

func decodeDatapath(dp Index, b []byte) (Datapath, error) {
	d := Datapath{Index: dp}
	err := parts("datapath", b, func(typ uint16, p []byte) error {
		switch {
		case typ == dpName:
			d.Name = cString(p)
		case typ == dpUserFeatures && len(p) == 4:
			d.Features = Features(he32(p))
		case typ == dpMasksCache && len(p) == 4:
			d.MasksCache = he32(p)
		case typ == dpPerCPUPIDs:
			d.UpcallPIDs = u32s(p)
		case typ == dpStats && len(p) >= 32:
			d.Stats = DatapathStats{Hit: he64(p), Missed: he64(p[8:]), Lost: he64(p[16:]), Flows: he64(p[24:])}
		case typ == dpMegaflow && len(p) >= 16:
			d.Masks = MaskStats{Hit: he64(p), Masks: he32(p[8:])}
			if len(p) >= 24 {
				d.Masks.CacheHit = he64(p[16:])
			}
		case typ == dpPad || typ == dpUpcallPID || typ == dpIfindex:
		case typ <= dpIfindex:
			return short("datapath", typ)
		default:
			d.Unknown = append(d.Unknown, cloneAttr(typ, p))
		}
		return nil
	})
	return d, err
}

func cloneAttr(typ uint16, p []byte) Attr { return Attr{Type: typ, Data: append([]byte(nil), p...)} }

func u32s(p []byte) (vs []uint32) {
	for ; len(p) >= 4; p = p[4:] {
		vs = append(vs, he32(p))
	}
	return vs
}

// checkName refuses what cannot be the name of a device.
func checkName(name string) error {
	if len(name) == 0 || len(name) > 15 {
		return &FlowError{Field: "name " + name, Reason: "it must have 1 to 15 bytes"}
	}
	return nil
}

package odp

import (
	"context"
	"encoding/binary"
	"errors"
	"os"

	"github.com/overweave/overweave/odp/internal/nla"
)

// family is a family of generic netlink.
type family struct {
	name    string
	id      uint16
	version uint8
	groups  map[string]uint32
}

// families are those of the datapath. Their ids differ from boot to boot.
type families struct {
	datapath, vport, flow, packet family
	meter, limit                  family // id 0 if the kernel lacks it
}

const (
	controlID      = 16
	controlGet     = 3
	ctrlID         = 1
	ctrlName       = 2
	ctrlGroups     = 7
	ctrlGroupName  = 1
	ctrlGroupID    = 2
	controlVersion = 1
)

func (c *Conn) findFamilies(ctx context.Context) error {
	for _, want := range []struct {
		to       *family
		name     string
		version  uint8
		optional bool
	}{
		{&c.families.datapath, "ovs_datapath", 2, false},
		{&c.families.vport, "ovs_vport", 1, false},
		{&c.families.flow, "ovs_flow", 1, false},
		{&c.families.packet, "ovs_packet", 1, false},
		{&c.families.meter, "ovs_meter", 1, true},
		{&c.families.limit, "ovs_ct_limit", 1, true},
	} {
		f, err := c.findFamily(ctx, want.name)
		switch {
		case err == nil:
			f.version = want.version
			*want.to = f
		case errors.Is(err, os.ErrNotExist) && want.optional:
			*want.to = family{name: want.name, version: want.version}
		case errors.Is(err, os.ErrNotExist):
			return &UnsupportedError{
				Feature: "the Open vSwitch datapath", Since: "3.3", Kernel: kernelRelease(), Err: err,
				Hint: "openvswitch is not in this kernel; where it is a module, load it with `modprobe openvswitch` " +
					"(package linux-modules-extra or kernel-modules-core on some distributions), else set CONFIG_OPENVSWITCH",
			}
		default:
			return err
		}
	}
	return nil
}

func (c *Conn) findFamily(ctx context.Context, name string) (f family, err error) {
	// The controller has no header of its own: the attributes begin where the datapath's index would be.
	r := request{family: family{id: controlID, version: controlVersion}, cmd: controlGet}
	r.body = func(e *nla.Encoder) {
		e.B = e.B[:len(e.B)-4]
		e.String(ctrlName, name)
	}
	err = c.do(ctx, "find the netlink family "+name, r, func(m message) error {
		if len(m.body) < 4 {
			return &DecodeError{What: "family", Reason: "too short"}
		}
		f, err = decodeFamily(m.body[4:])
		return err
	})
	if err == nil && f.id == 0 {
		err = &DecodeError{What: "family " + name, Reason: "no number"}
	}
	f.name = name
	return f, err
}

func decodeFamily(b []byte) (f family, err error) {
	f.groups = make(map[string]uint32)
	err = parts("family", b, func(typ uint16, d []byte) error {
		switch {
		case typ == ctrlID && len(d) == 2:
			f.id = he16(d)
		case typ == ctrlName:
			f.name = cString(d)
		case typ == ctrlGroups:
			return parts("family", d, func(_ uint16, d []byte) error { return f.decodeGroup(d) })
		}
		return nil
	})
	return f, err
}

func (f *family) decodeGroup(b []byte) error {
	name, id := "", uint32(0)
	err := parts("family", b, func(typ uint16, d []byte) error {
		switch {
		case typ == ctrlGroupName:
			name = cString(d)
		case typ == ctrlGroupID && len(d) == 4:
			id = binary.NativeEndian.Uint32(d)
		}
		return nil
	})
	f.groups[name] = id
	return err
}

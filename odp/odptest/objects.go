package odptest

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"syscall"

	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/internal/nla"
)

func indexOf(dp int32) odp.Index { return odp.Index(dp) }

func (k *Kernel) findDatapath(r request) *datapath {
	if name, ok := r.attrs[1]; ok && r.typ == famDatapath {
		for _, d := range k.dps {
			if d.name == text(name) {
				return d
			}
		}
		return nil
	}
	return k.dps[r.dp]
}

func (k *Kernel) datapath(r request) (out [][]byte, errno syscall.Errno) {
	if r.dump {
		for _, i := range slices.Sorted(maps.Keys(k.dps)) {
			out = append(out, k.object(r, k.dps[i].append, i))
		}
		return out, 0
	}
	d := k.findDatapath(r)
	if r.cmd == cmdNew {
		if d != nil {
			return nil, syscall.EEXIST
		}
		if _, ok := r.attrs[2]; !ok {
			return nil, syscall.EINVAL
		}
		k.nextDP++
		d = &datapath{index: k.nextDP, name: text(r.attrs[1]), ports: make(map[uint32]*vport), flows: make(map[string]*flow)}
		d.ports[0] = &vport{typ: uint32(odp.Internal), name: d.name, pids: r.attrs[2]}
		k.dps[d.index] = d
	}
	if d == nil {
		return nil, syscall.ENODEV
	}
	switch r.cmd {
	case cmdNew, cmdSet:
		d.features = number(r.attrs[5])
		if pids, ok := r.attrs[8]; ok && d.features&uint32(odp.PerCPU) != 0 {
			d.cpuPIDs = pids
		}
	case cmdDel:
		delete(k.dps, d.index)
	}
	return r.echoed(k.object(r, d.append, d.index))
}

func (d *datapath) append(m *nla.Encoder) {
	m.String(1, d.name)
	stats := m.Begin(3)
	for _, v := range []uint64{0, d.missed, d.lost, uint64(len(d.flows))} {
		m.B = binary.NativeEndian.AppendUint64(m.B, v)
	}
	m.End(stats)
	m.U32(5, d.features)
	if d.cpuPIDs != nil {
		m.Bytes(8, d.cpuPIDs)
	}
}

func (k *Kernel) findVport(r request) (*datapath, *vport) {
	if name, ok := r.attrs[3]; ok {
		for _, d := range k.dps {
			for _, v := range d.ports {
				if v.name == text(name) {
					return d, v
				}
			}
		}
		return k.dps[r.dp], nil
	}
	d := k.dps[r.dp]
	if d == nil {
		return nil, nil
	}
	return d, d.ports[number(r.attrs[1])]
}

func (k *Kernel) vport(r request) (out [][]byte, errno syscall.Errno) {
	d, v := k.findVport(r)
	if r.dump {
		if d = k.dps[r.dp]; d == nil {
			return nil, syscall.ENODEV
		}
		for _, i := range slices.Sorted(maps.Keys(d.ports)) {
			out = append(out, k.object(r, d.ports[i].append, d.index))
		}
		return out, 0
	}
	if r.cmd == cmdNew {
		if v != nil {
			return nil, syscall.EEXIST
		}
		if d == nil {
			return nil, syscall.ENODEV
		}
		if v, errno = d.newPort(r); errno != 0 {
			return nil, errno
		}
	}
	if d == nil || v == nil {
		return nil, syscall.ENODEV
	}
	if r.cmd == cmdSet {
		v.pids = r.attrs[5]
	}
	if r.cmd == cmdDel {
		if v.number == 0 {
			return nil, syscall.EINVAL
		}
		delete(d.ports, v.number)
	}
	return r.echoed(k.object(r, v.append, d.index))
}

func (d *datapath) newPort(r request) (*vport, syscall.Errno) {
	v := &vport{typ: number(r.attrs[2]), name: text(r.attrs[3]), pids: r.attrs[5], opts: r.attrs[4]}
	if v.typ == 0 || v.name == "" || v.pids == nil {
		return nil, syscall.EINVAL
	}
	if no, ok := r.attrs[1]; ok {
		v.number = number(no)
	} else {
		for v.number = 1; d.ports[v.number] != nil; v.number++ {
		}
	}
	if d.ports[v.number] != nil {
		return nil, syscall.EBUSY
	}
	if v.number >= 65535 {
		return nil, syscall.EFBIG
	}
	d.ports[v.number] = v
	return v, 0
}

func (v *vport) append(m *nla.Encoder) {
	m.U32(1, v.number)
	m.U32(2, v.typ)
	m.String(3, v.name)
	m.Bytes(5, v.pids)
	if v.opts != nil {
		m.Bytes(4, v.opts)
	}
}

// name is what identifies a flow: its identifier, or its key whatever the order of the attributes.
func (r request) name() (string, bool) {
	if id, ok := r.attrs[9]; ok {
		return string(id), true
	}
	key, ok := r.attrs[1]
	if !ok {
		return "", false
	}
	var parts []string
	it := nla.Iterate(key)
	for it.Next() {
		parts = append(parts, string(binary.BigEndian.AppendUint16(nil, it.Type()))+string(it.Data()))
	}
	slices.SortFunc(parts, cmp.Compare[string])
	name := "key"
	for _, p := range parts {
		name += string(binary.BigEndian.AppendUint16(nil, uint16(len(p)))) + p
	}
	return name, it.Err() == nil
}

func (k *Kernel) flow(r request) (out [][]byte, errno syscall.Errno) {
	d := k.dps[r.dp]
	if d == nil {
		return nil, syscall.ENODEV
	}
	if r.dump {
		for _, name := range d.order {
			out = append(out, k.object(r, d.flows[name].append, d.index))
		}
		return out, 0
	}
	name, named := r.name()
	if !named {
		if r.cmd != cmdDel {
			return nil, syscall.EINVAL
		}
		d.flows, d.order = make(map[string]*flow), nil
		return nil, 0
	}
	f := d.flows[name]
	if errno = d.change(r, name, &f); errno != 0 {
		return nil, errno
	}
	return r.echoed(k.object(r, f.append, d.index))
}

func (d *datapath) change(r request, name string, f **flow) syscall.Errno {
	actions, hasActions := r.attrs[2]
	_, clears := r.attrs[6]
	switch {
	case r.cmd == cmdNew && (r.attrs[1] == nil || !hasActions):
		return syscall.EINVAL
	case r.cmd == cmdNew && *f != nil && r.create:
		return syscall.EEXIST
	case r.cmd == cmdNew && *f != nil && (*f).unlikeItself():
		return syscall.ENOENT
	case r.cmd == cmdNew && *f == nil:
		*f = &flow{key: r.attrs[1], mask: r.attrs[7], ufid: r.attrs[9]}
		d.flows[name] = *f
		d.order = append(d.order, name)
	case *f == nil:
		return syscall.ENOENT
	}
	if hasActions && (r.cmd == cmdNew || r.cmd == cmdSet) {
		(*f).actions = actions
	}
	if clears {
		(*f).packets, (*f).bytes = 0, 0
	}
	if r.cmd == cmdDel {
		delete(d.flows, name)
		d.order = slices.DeleteFunc(d.order, func(n string) bool { return n == name })
	}
	return 0
}

// unlikeItself reports whether kernels, when the flow is put again, take it for another with the same identifier: they do if the
// mask leaves the EtherType out.
func (f *flow) unlikeItself() bool {
	if f.ufid == nil || f.mask == nil {
		return false
	}
	const etherType = 6
	for it := nla.Iterate(f.mask); it.Next(); {
		if d := it.Data(); it.Type() == etherType && len(d) == 2 && d[0]|d[1] != 0 {
			return false
		}
	}
	return true
}

func (f *flow) append(m *nla.Encoder) {
	if f.ufid != nil {
		m.Bytes(9, f.ufid)
	}
	m.Bytes(1, f.key)
	m.Bytes(7, f.mask)
	if f.packets > 0 {
		stats := m.Begin(3)
		m.B = binary.NativeEndian.AppendUint64(m.B, f.packets)
		m.B = binary.NativeEndian.AppendUint64(m.B, f.bytes)
		m.End(stats)
	}
	m.Bytes(2, f.actions)
}

package fastdp

import (
	"bytes"
	"encoding/binary"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
)

// oldSocket is a socket to a kernel that cannot send misses to a socket of each processor: such requests are refused.
type oldSocket struct {
	odp.Socket
	refuse func()
}

func (s oldSocket) Send(b []byte) error {
	attr := binary.NativeEndian.AppendUint32([]byte{8, 0, 5, 0}, uint32(odp.PerCPU)) // the features of a datapath
	full := binary.NativeEndian.AppendUint32([]byte{8, 0, 5, 0}, uint32(odp.PerCPU|odp.Unaligned))
	if bytes.Contains(b, attr) || bytes.Contains(b, full) {
		s.refuse()
	}
	return s.Socket.Send(b)
}

// onOldKernel starts the datapath over a kernel without dispatch by processor.
func (r *rig) onOldKernel(change func(*Config)) {
	r.stop()
	r.start(func(c *Config) {
		c.ODP.Dial = func(o odp.SocketOptions) (odp.Socket, error) {
			s, err := r.dial(o)
			return oldSocket{s, func() { r.k.Refuse(syscall.EOPNOTSUPP) }}, err
		}
		if change != nil {
			change(c)
		}
	})
}

// TestOldKernel: where the kernel has no sockets by processor, each port has the sockets of all readers.
func TestOldKernel(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.onOldKernel(nil)
		require.False(t, r.Status().PerCPU)
		sockets := func(device string) []uint32 {
			v, err := r.conn.Vport(t.Context(), device)
			require.NoError(t, err)
			return v.UpcallPIDs
		}
		pids := sockets("a")
		require.Len(t, pids, 2, "one for each reader")
		r.mesh()
		require.NoError(t, r.AddPort(t.Context(), "c"))
		for _, device := range []string{"b", "c", "vxlan-6784"} {
			require.Equal(t, pids, sockets(device), device)
		}
		require.True(t, r.miss("a", all, here1))
		require.True(t, r.miss("c", all, here2))
		r.missFromB(newVNI(id(nameB), id(self)), here1, atB)
		r.settle()
		flows := r.consistent()
		require.Contains(t, flows, flowKey{shape: shapeSource, port: r.number("a"), mac: here1})
		require.Contains(t, flows, flowKey{shape: shapeSource, port: r.number("c"), mac: here2})
		require.Contains(t, flows, flowKey{shape: shapeDeliver, mac: here1})
		for _, steps := range flows {
			for _, s := range steps {
				require.True(t, s.kind != stepUser || slices.Contains(pids, s.port))
			}
		}

		for _, s := range r.sockets {
			if s.Port() == pids[0] {
				require.NoError(t, s.Close())
			}
		}
		require.False(t, r.miss("a", all, novel), "nobody reads")
		time.Sleep(time.Second)
		r.settle()
		require.EqualValues(t, 1, r.Status().Counts["reader_restarts"])
		now := sockets("a")
		require.Len(t, now, 2)
		require.NotContains(t, now, pids[0])
		require.Contains(t, now, pids[1])
		require.Equal(t, now, sockets("vxlan-6784"))
		require.True(t, r.miss("a", all, novel))
		r.settle()
		require.Contains(t, r.consistent(), flowKey{shape: shapeSource, port: r.number("a"), mac: novel})

		_, err := r.conn.SetUpcallPIDs(t.Context(), r.dp(), r.number("b"), 7)
		require.NoError(t, err)
		r.touch()
		r.settle()
		require.Equal(t, now, sockets("b"), "what others change is put right")
	})
}

// TestAdoptOnOldKernel: ports of a former run get the sockets of this one.
func TestAdoptOnOldKernel(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.onOldKernel(nil)
		r.mesh()
		require.True(t, r.miss("a", all, here1))
		r.settle()
		before := r.consistent()
		r.onOldKernel(nil)
		require.Equal(t, before, r.consistent())
		r.mesh()
		require.True(t, r.miss("b", all, here2))
		r.settle()
		require.Contains(t, r.consistent(), flowKey{shape: shapeSource, port: r.number("b"), mac: here2})
	})
}

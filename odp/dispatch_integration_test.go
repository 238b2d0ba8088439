//go:build linux

package odp_test

import (
	"context"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/odp"
)

// onCPU runs f on a processor.
func onCPU(t *testing.T, cpu int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &before))
	only.Set(cpu)
	require.NoError(t, unix.SchedSetaffinity(0, &only))
	defer func() { require.NoError(t, unix.SchedSetaffinity(0, &before)) }()
	f()
}

// Misses go to the sockets that they are to go to. It takes two processors to tell.
func TestIntegrationDispatch(t *testing.T) {
	if !inKernel(t, lab.SMP) {
		return
	}
	w := newWire(t, "odptest18")
	t.Run("per CPU", func(t *testing.T) { dispatchPerCPU(t, w) })
	t.Run("per vport", func(t *testing.T) { dispatchPerVport(t, w) })
}

// With per-CPU dispatch, misses go to the socket of the processor on which they happen; those beyond the list count modulo its length.
func dispatchPerCPU(t *testing.T, w *wire) {
	readers := []*odp.UpcallReader{openUpcalls(t, w.conn), openUpcalls(t, w.conn)}
	pids := []uint32{readers[0].PID(), readers[1].PID()}
	f := udp4().build(t, nil)
	for _, c := range []struct {
		pids []uint32
		to   []*odp.UpcallReader // by processor
	}{
		{pids, readers},
		{[]uint32{pids[1], pids[0]}, []*odp.UpcallReader{readers[1], readers[0]}},
		{pids[1:], []*odp.UpcallReader{readers[1], readers[1]}},
	} {
		d, err := w.conn.SetFeatures(t.Context(), w.dp, odp.Unaligned|odp.PerCPU, c.pids)
		require.NoError(t, err)
		require.Equal(t, c.pids, d.UpcallPIDs)
		for cpu, r := range c.to {
			before := r.Stats().Received
			onCPU(t, cpu, func() { w.taps[inPort].write(t, f) })
			require.Equal(t, f, read(t, r).Packet)
			require.Equal(t, before+1, r.Stats().Received)
		}
	}
	_, err := w.conn.SetFeatures(t.Context(), w.dp, odp.Unaligned|odp.VportPIDs, nil)
	require.NoError(t, err)
	w.taps[inPort].write(t, f)
	require.Equal(t, f, read(t, w.up).Packet, "the vport's own socket counts again")
}

// A vport with several sockets spreads connections over them, and keeps each with one.
func dispatchPerVport(t *testing.T, w *wire) {
	readers := []*odp.UpcallReader{openUpcalls(t, w.conn), openUpcalls(t, w.conn)}
	v, err := w.conn.SetUpcallPIDs(t.Context(), w.dp, inPort, readers[0].PID(), readers[1].PID())
	require.NoError(t, err)
	require.Equal(t, []uint32{readers[0].PID(), readers[1].PID()}, v.UpcallPIDs)
	for i := range 64 {
		f := udp4().build(t, func(h *headers) { h.udp.SrcPort = layers.UDPPort(i) })
		w.taps[inPort].write(t, f)
		w.taps[inPort].write(t, f)
	}
	counts := map[layers.UDPPort]int{}
	for _, list := range readAll(t, 128, readers...) {
		require.Greater(t, len(list), 16)
		for _, up := range list {
			keys, err := up.Key.Keys()
			require.NoError(t, err)
			for _, k := range keys {
				if ports, is := k.(odp.UDP); is {
					counts[layers.UDPPort(ports.Src)]++
				}
			}
		}
		for port, n := range counts {
			require.Equal(t, 2, n, "both of port %d came to one socket", port)
		}
	}
	require.Len(t, counts, 64)
}

// readAll returns what comes to each of some readers; together it is so many. The slices in it are copies.
func readAll(t *testing.T, want int, readers ...*odp.UpcallReader) [][]odp.Upcall {
	t.Helper()
	lists := make([][]odp.Upcall, len(readers))
	ups := make([]odp.Upcall, 64)
	got := 0
	for start := time.Now(); got < want && time.Since(start) < time.Minute; {
		for i, r := range readers {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			n, err := r.Read(ctx, ups)
			cancel()
			if err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
			for _, up := range ups[:n] {
				up.Packet, up.Key = slices.Clone(up.Packet), slices.Clone(up.Key)
				lists[i] = append(lists[i], up)
			}
			got += n
		}
	}
	require.Equal(t, want, got)
	return lists
}

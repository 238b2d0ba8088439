package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

const pairMACs = 1000 // on each side

// pairsResult is about frames of which each is the first of its pair of MAC addresses, between two ports of one switch.
type pairsResult struct {
	Frames  int         `json:"frames"`
	FastDP  pairsSwitch `json:"fastdp"`
	Vswitch pairsSwitch `json:"ovs_vswitchd"`
	Missing string      `json:"missing,omitempty"` // why there is no comparison
}

type pairsSwitch struct {
	Lost  int     `json:"lost"`
	Rate  float64 `json:"frames_per_second"`
	CPU   float64 `json:"cpu_seconds"` // of the switch in user space
	Flows int     `json:"flows"`
}

func (p *pairsResult) print(out io.Writer) error {
	row := func(name string, s pairsSwitch) []string {
		return []string{name, fmt.Sprint(s.Lost), fmt.Sprintf("%.0f", s.Rate), fmt.Sprintf("%.2f", s.CPU), fmt.Sprint(s.Flows)}
	}
	rows := [][]string{row("fastdp", p.FastDP)}
	if p.Missing == "" {
		rows = append(rows, row("ovs-vswitchd", p.Vswitch))
	}
	fmt.Fprintf(out, "\n%d frames, each the first of one of %d x %d pairs of MAC addresses:\n\n", p.Frames, pairMACs, pairMACs)
	err := printTable(out, []string{"switch", "lost", "frames/s", "CPU s in user space", "flows"}, rows)
	if p.Missing != "" {
		fmt.Fprintln(out, "missing:", p.Missing)
	}
	return err
}

// measurePairs compares fastdp with ovs-vswitchd and its flow "normal".
func measurePairs(ctx context.Context, frames int) (r *pairsResult, err error) {
	r = &pairsResult{Frames: frames}
	if r.FastDP, err = inScratch(ctx, func(h *lab.Host) (pairsSwitch, error) { return pairsFastDP(ctx, h, frames) }); err != nil {
		return nil, fmt.Errorf("fastdp: %w", err)
	}
	if r.Vswitch, err = inScratch(ctx, func(h *lab.Host) (pairsSwitch, error) { return pairsVswitch(ctx, h, frames) }); err != nil {
		r.Missing = "ovs-vswitchd: " + err.Error()
	}
	return r, nil
}

// inScratch calls f with a host of its own, which has the devices of the traffic.
func inScratch(ctx context.Context, f func(*lab.Host) (pairsSwitch, error)) (s pairsSwitch, err error) {
	l, err := lab.New()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	h, err := l.Host("host")
	if err != nil {
		return s, err
	}
	err = h.Do(func() error { return errors.Join(vethPair(missIn, missInPort), vethPair(missOut, missOutPort)) })
	if err != nil {
		return s, err
	}
	return f(h)
}

func pairsFastDP(ctx context.Context, h *lab.Host, frames int) (s pairsSwitch, err error) {
	n, err := openNode(ctx, h, nodeConfig{name: peer.MustParse("0a:00:00:00:00:01")})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	n.fwd.SetRoutes(newStar(n.name))
	for _, port := range []string{missInPort, missOutPort} {
		if err := n.dp.AddPort(ctx, port); err != nil {
			return s, err
		}
	}
	s, err = pairTraffic(h, frames, func() (time.Duration, error) { return cpuOf(unix.RUSAGE_SELF, unix.RUSAGE_THREAD) })
	s.Flows = flowsOf(n.dp.Status())
	return s, err
}

func flowsOf(st fastdp.Status) (n int) {
	for _, k := range st.Flows {
		n += k
	}
	return n
}

// cpuOf returns the time of this process without that of this thread.
func cpuOf(all, without int) (time.Duration, error) {
	var a, b unix.Rusage
	if err := errors.Join(unix.Getrusage(all, &a), unix.Getrusage(without, &b)); err != nil {
		return 0, err
	}
	total := func(r unix.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }
	return time.Duration(total(a) - total(b)), nil
}

// pairsVswitch runs the daemons of Open vSwitch in a host.
func pairsVswitch(ctx context.Context, h *lab.Host, frames int) (s pairsSwitch, err error) {
	dir, err := os.MkdirTemp("", "ovs")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	env := append(os.Environ(), "OVS_RUNDIR="+dir, "OVS_DBDIR="+dir, "OVS_LOGDIR="+dir)
	run := func(args ...string) ([]byte, error) {
		cmd := h.Command(ctx, args[0], args[1:]...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%v: %w: %.300s", args, err, out)
		}
		return out, err
	}
	if _, err := exec.LookPath("ovs-vswitchd"); err != nil {
		return s, err
	}
	defer func() {
		for _, daemon := range []string{"ovs-vswitchd", "ovsdb-server"} {
			_, _ = run("ovs-appctl", "-t", daemon, "exit")
		}
	}()
	// Before it has seen ten seconds of the monotonic clock, ovs-vswitchd counts no CPUs and starts no handler thread.
	if err := pause(ctx, 11*time.Second-odp.MonotonicTime()); err != nil {
		return s, err
	}
	for _, args := range [][]string{
		{"ovsdb-tool", "create", dir + "/bench.db", "/usr/share/openvswitch/vswitch.ovsschema"},
		{"ovsdb-server", "--remote=punix:" + dir + "/db.sock", "--pidfile", "--detach", dir + "/bench.db"},
		{"ovs-vsctl", "--no-wait", "init"},
		{"ovs-vswitchd", "--pidfile", "--detach", "--log-file"},
		{"ovs-vsctl", "add-br", missBridge, "--", "add-port", missBridge, missInPort, "--", "add-port", missBridge, missOutPort},
	} {
		if _, err := run(args...); err != nil {
			return s, err
		}
	}
	pid, err := os.ReadFile(dir + "/ovs-vswitchd.pid")
	if err != nil {
		return s, err
	}
	s, err = pairTraffic(h, frames, func() (time.Duration, error) { return processCPU(strings.TrimSpace(string(pid))) })
	if out, ferr := run("ovs-dpctl", "dump-flows"); ferr == nil {
		s.Flows = strings.Count(string(out), "\n")
	}
	return s, err
}

// processCPU reads the time that a process has used, in ticks of 10 ms.
func processCPU(pid string) (time.Duration, error) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	const utime, stime = 11, 12 // after the name
	if len(fields) <= stime {
		return 0, fmt.Errorf("process %s: no times", pid)
	}
	var ticks int
	for _, f := range fields[utime : stime+1] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// pairTraffic has each MAC address of the far side speak once, and then sends the frames.
func pairTraffic(h *lab.Host, frames int, cpu func() (time.Duration, error)) (s pairsSwitch, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var in, out int
	err = h.Do(func() (err error) {
		if in, err = packetSocket(missIn); err != nil {
			return err
		}
		out, err = packetSocket(missOut)
		return err
	})
	if err != nil {
		return s, err
	}
	defer unix.Close(in)
	defer unix.Close(out)
	everyone := overlay.MAC{255, 255, 255, 255, 255, 255}
	hello := func(i int) []byte { return pairFrame(everyone, pairMAC(3, i)) }
	if lost, err := exchange(out, in, pairMACs, hello); err != nil || lost > 0 {
		return s, errors.Join(err, fmt.Errorf("%d of the first frames lost", lost))
	}
	before, err := cpu()
	if err != nil {
		return s, err
	}
	start := time.Now()
	s.Lost, err = exchange(in, out, frames, func(i int) []byte {
		return pairFrame(pairMAC(3, (i+i/pairMACs)%pairMACs), pairMAC(2, i%pairMACs)) // a diagonal for each thousand
	})
	s.Rate = float64(frames) / time.Since(start).Seconds()
	after, cerr := cpu()
	s.CPU = (after - before).Seconds()
	return s, errors.Join(err, cerr)
}

func pairMAC(side byte, i int) overlay.MAC { return overlay.MAC{2, side, 0, 0, byte(i >> 8), byte(i)} }

func pairFrame(dst, src overlay.MAC) []byte {
	frame := make([]byte, 60)
	copy(frame, dst[:])
	copy(frame[6:], src[:])
	binary.BigEndian.PutUint16(frame[12:], 0x88b5)
	return frame
}

// exchange sends frames, never more than a window before those that came out, and returns how many were lost.
func exchange(in, out, n int, frame func(int) []byte) (lost int, err error) {
	buf := make([]byte, 2048)
	for sent, got := 0, 0; got+lost < n; {
		for sent < n && sent-got-lost < missWindow {
			if _, err := unix.Write(in, frame(sent)); err != nil {
				return lost, err
			}
			sent++
		}
		k, err := unix.Read(out, buf)
		switch {
		case err == unix.EAGAIN: // nothing for a second: the window is lost
			lost = sent - got
		case err != nil && err != unix.EINTR:
			return lost, err
		case k >= 14 && binary.BigEndian.Uint16(buf[12:]) == 0x88b5:
			got++
		}
	}
	return lost, nil
}

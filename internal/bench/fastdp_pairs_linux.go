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

const (
	pairMACs     = 1000             // on each side
	pairTime     = 40 * time.Second // after which a switch gets no more frames
	pairPatience = 10 * time.Second // without a frame, after which those under way count as lost
	pairType     = 0x88b5           // the EtherType of the frames, for experiments
	pairNumberAt = 14               // in a frame
)

// pairsResult is about frames of which each is the first of its pair of MAC addresses, between two ports of one switch.
type pairsResult struct {
	FastDP  pairsSwitch  `json:"fastdp"`
	Vswitch *pairsSwitch `json:"ovs_vswitchd,omitempty"`
	Missing string       `json:"missing,omitempty"` // why there is no comparison
	Met     bool         `json:"met"`               // nothing lost, and no more CPU for a frame than the other
}

type pairsSwitch struct {
	Frames int     `json:"frames"`
	Lost   int     `json:"lost"`
	Rate   float64 `json:"frames_per_second"`
	CPU    float64 `json:"cpu_us_per_frame"` // of the process of the switch
	Flows  int     `json:"flows"`
}

func (p *pairsResult) print(out io.Writer) error {
	row := func(name string, s pairsSwitch) []string {
		return []string{name, fmt.Sprint(s.Frames), fmt.Sprint(s.Lost), fmt.Sprintf("%.0f", s.Rate), fmt.Sprintf("%.1f", s.CPU), fmt.Sprint(s.Flows)}
	}
	rows := [][]string{row("fastdp", p.FastDP)}
	if p.Vswitch != nil {
		rows = append(rows, row("ovs-vswitchd", *p.Vswitch))
	}
	fmt.Fprintf(out, "\nFrames, each the first of one of %d x %d pairs of MAC addresses, at most %d under way:\n\n", pairMACs, pairMACs, missWindow)
	if err := printTable(out, []string{"switch", "frames", "lost", "frames/s", "CPU of its process, µs/frame", "flows"}, rows); err != nil {
		return err
	}
	if p.Missing != "" {
		fmt.Fprintln(out, "\nNo comparison:", p.Missing)
	}
	fmt.Fprintf(out, "\nBar, no loss and no more CPU than ovs-vswitchd with the flow \"normal\": %s\n", metOrMissed(p.Met))
	return nil
}

func metOrMissed(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

// measurePairs compares fastdp with ovs-vswitchd and its flow "normal".
func measurePairs(ctx context.Context, frames int) (r *pairsResult, err error) {
	r = &pairsResult{}
	if r.FastDP, err = inScratch(ctx, func(h *lab.Host) (pairsSwitch, error) { return pairsFastDP(ctx, h, frames) }); err != nil {
		return nil, fmt.Errorf("fastdp: %w", err)
	}
	v, err := inScratch(ctx, func(h *lab.Host) (pairsSwitch, error) { return pairsVswitch(ctx, h, frames) })
	if err != nil {
		r.Missing = "ovs-vswitchd: " + err.Error()
	} else {
		r.Vswitch = &v
	}
	r.Met = r.FastDP.Lost == 0 && (r.Vswitch == nil || r.FastDP.CPU <= r.Vswitch.CPU)
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
	if n, lost, err := exchange(out, in, pairMACs, hello); err != nil || lost > 0 {
		return s, errors.Join(err, fmt.Errorf("%d of the first %d frames lost", lost, n))
	}
	before, err := cpu()
	if err != nil {
		return s, err
	}
	start := time.Now()
	s.Frames, s.Lost, err = exchange(in, out, frames, func(i int) []byte {
		return pairFrame(pairMAC(3, (i+i/pairMACs)%pairMACs), pairMAC(2, i%pairMACs)) // a diagonal for each thousand
	})
	s.Rate = float64(s.Frames) / time.Since(start).Seconds()
	after, cerr := cpu()
	s.CPU = (after - before).Seconds() * 1e6 / float64(max(1, s.Frames))
	return s, errors.Join(err, cerr)
}

func pairMAC(side byte, i int) overlay.MAC { return overlay.MAC{2, side, 0, 0, byte(i >> 8), byte(i)} }

func pairFrame(dst, src overlay.MAC) []byte {
	frame := make([]byte, 60)
	copy(frame, dst[:])
	copy(frame[6:], src[:])
	binary.BigEndian.PutUint16(frame[12:], pairType)
	return frame
}

// exchange sends up to n frames, as many as it can in the time that there is, never more than a window before those that came out.
// It returns how many it sent, and how many of them were lost. It numbers them, since a late one is not a lost one.
func exchange(in, out, n int, frame func(int) []byte) (sent, lost int, err error) {
	var (
		arrived      = make([]bool, n)
		got, givenUp int
		start        = time.Now()
		last         = start
		buf          = make([]byte, 2048)
	)
	for got+givenUp < n {
		if sent < n && time.Since(start) > pairTime {
			n = sent
		}
		for ; sent < n && sent-got-givenUp < missWindow; sent++ {
			f := frame(sent)
			binary.BigEndian.PutUint32(f[pairNumberAt:], uint32(sent))
			if _, err := unix.Write(in, f); err != nil {
				return sent, sent - got, err
			}
		}
		k, err := unix.Read(out, buf)
		switch {
		case err == unix.EAGAIN:
			if time.Since(last) > pairPatience {
				givenUp, last = sent-got, time.Now()
			}
		case err != nil && err != unix.EINTR:
			return sent, sent - got, err
		case k >= pairNumberAt+4 && binary.BigEndian.Uint16(buf[12:]) == pairType:
			i := int(binary.BigEndian.Uint32(buf[pairNumberAt:]))
			if i < sent && !arrived[i] {
				arrived[i], last = true, time.Now()
				got++
				givenUp = min(givenUp, sent-got) // it may be one of those
			}
		}
	}
	return sent, sent - got, nil
}

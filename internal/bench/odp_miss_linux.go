package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/odp"
)

// The traffic of both switches: frames go in at missIn, and what is switched comes out at missOut.
const (
	missIn, missInPort   = "odpb-in", "odpb-inp"
	missOut, missOutPort = "odpb-out", "odpb-outp"
	missBridge           = "odpb-br"
	missWindow           = 32 // frames under way
	missRounds           = 3
	missPatience         = 10 // seconds without a frame after which those under way count as lost
)

// Where the time goes. Printed is, for either switch, what a miss costs the process that handles it: its time, and its system calls.
// For each batch of misses ours makes three: one receives the misses, one sends all flows and packets, one receives the
// acknowledgements. So a switch that falls behind makes fewer for each miss. ovs-vswitchd receives every miss by a call of its own,
// takes it through its OpenFlow tables, and looks after what it put.
//
// A profile of ours (odp -cpuprofile FILE, then go tool pprof) has, in a guest of user-mode Linux, nearly half in putting and executing
// (two fifths of that the call that sends, in which the kernel does it; two fifths arming the deadline, because reading the clock
// is a system call there), a fifth in making flows and their messages, a fifth in the runtime that waits for the next misses.

// measureMisses sends frames of which each has a new pair of addresses, through a switch on package odp and through ovs-vswitchd. Both
// know the destination already and learn each source; both put the same flow, which has the frame sent out by one port.
func (r *odpResult) measureMisses(ctx context.Context, profile string) (err error) {
	for _, pair := range [][2]string{{missIn, missInPort}, {missOut, missOutPort}} {
		if err := vethPair(pair[0], pair[1]); err != nil {
			return err
		}
		defer func() {
			if l, err := netlink.LinkByName(pair[0]); err == nil {
				_ = netlink.LinkDel(l)
			}
		}()
	}
	if err = r.missesOurs(ctx, profile); err != nil {
		return fmt.Errorf("misses: %w", err)
	}
	if err = r.missesSwitch(ctx); err != nil {
		r.Missing = "ovs-vswitchd: " + err.Error()
	}
	return nil
}

func vethPair(a, b string) error {
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a}, PeerName: b})
	for _, name := range []string{a, b} {
		l, lerr := netlink.LinkByName(name)
		if err = errors.Join(err, lerr); lerr == nil {
			err = errors.Join(err, netlink.LinkSetUp(l))
		}
	}
	return err
}

// missesOurs measures the switch below, in a process of its own as ovs-vswitchd is.
func (r *odpResult) missesOurs(ctx context.Context, profile string) (err error) {
	child := exec.CommandContext(ctx, "/proc/self/exe", "odp", "-serve", "-cpuprofile", profile)
	child.Cancel = func() error { return child.Process.Signal(unix.SIGTERM) }
	msg := &limited{}
	child.Stderr = msg
	ready, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	if _, err = ready.Read(make([]byte, 1)); err == nil {
		r.Miss, r.Cost, r.Flow, err = r.traffic(ctx, child.Process.Pid)
	}
	if err := errors.Join(err, child.Process.Signal(unix.SIGTERM)); err != nil {
		return errors.Join(err, child.Wait(), errors.New(string(msg.b)))
	}
	return child.Wait()
}

// serveMisses is a learning switch until the context ends: for each miss a flow is put and the packet executed, all of a read in one
// batch. It writes a line when it is ready.
func serveMisses(ctx context.Context, profile string, ready io.Writer) error {
	c, err := odp.Open(ctx, odp.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	up, err := c.OpenUpcalls(odp.UpcallConfig{})
	if err != nil {
		return err
	}
	defer up.Close()
	dp, err := c.CreateDatapath(ctx, odp.DatapathSpec{Name: missBridge})
	if err != nil {
		return err
	}
	defer func() { _ = c.DeleteDatapath(context.WithoutCancel(ctx), dp.Index) }()
	s := learner{conn: c, dp: dp.Index, behind: make(map[odp.MAC]uint32)}
	for _, name := range []string{missInPort, missOutPort} {
		v, err := c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: name, Type: odp.Netdev, UpcallPIDs: []uint32{up.PID()}})
		if err != nil {
			return err
		}
		s.ports = append(s.ports, odp.Output(v.Number))
	}
	stop, err := startProfile(profile)
	if err != nil {
		return err
	}
	fmt.Fprintln(ready, "ready")
	if err = s.serve(ctx, up); errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, stop())
}

// learner is a switch: it knows behind which port an address was seen.
type learner struct {
	conn   *odp.Conn
	dp     odp.Index
	ports  []odp.Action
	behind map[odp.MAC]uint32
	batch  odp.Batch
}

func (s *learner) serve(ctx context.Context, up *odp.UpcallReader) error {
	ups := make([]odp.Upcall, 64)
	for {
		n, err := up.Read(ctx, ups)
		if err != nil {
			return err
		}
		s.batch.Reset()
		for i := range ups[:n] {
			s.handle(&ups[i])
		}
		if err := s.conn.Run(ctx, &s.batch); err != nil {
			return err
		}
	}
}

func (s *learner) handle(up *odp.Upcall) {
	in, _ := up.Key.InPort()
	eth, _ := up.Key.Ethernet()
	typ, _ := up.Key.EtherType()
	s.behind[eth.Src] = in
	actions := s.ports
	if port, known := s.behind[eth.Dst]; known {
		actions = []odp.Action{odp.Output(port)}
		s.batch.PutFlow(s.dp, odp.Flow{
			Match:   odp.Match{odp.Exact(odp.RecircID(0)), odp.Exact(odp.InPort(in)), odp.Exact(eth), odp.Exact(typ)},
			Actions: actions,
		})
	}
	s.batch.Execute(s.dp, odp.Execute{Packet: up.Packet, Key: up.Key, Hash: up.Hash, Actions: actions})
}

// missesSwitch runs ovs-vswitchd with a learning bridge.
func (r *odpResult) missesSwitch(ctx context.Context) error {
	const db = "/run/openvswitch/bench.db"
	defer func() {
		for _, daemon := range []string{"ovs-vswitchd", "ovsdb-server"} {
			_ = exec.Command("ovs-appctl", "-t", daemon, "exit").Run()
		}
	}()
	// Before it has seen ten seconds of the monotonic clock, ovs-vswitchd counts no CPUs and starts no handler thread.
	select {
	case <-time.After(11*time.Second - odp.MonotonicTime()):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, args := range [][]string{
		{"mkdir", "-p", "/run/openvswitch"},
		{"ovsdb-tool", "create", db, "/usr/share/openvswitch/vswitch.ovsschema"},
		{"ovsdb-server", "--remote=punix:/run/openvswitch/db.sock", "--pidfile", "--detach", db},
		{"ovs-vsctl", "--no-wait", "init"},
		{"ovs-vswitchd", "--pidfile", "--detach", "--log-file=/run/openvswitch/vswitchd.log"},
		{"ovs-vsctl", "add-br", missBridge, "--", "add-port", missBridge, missInPort, "--", "add-port", missBridge, missOutPort},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %.300s", args, err, out)
		}
	}
	text, err := os.ReadFile("/run/openvswitch/ovs-vswitchd.pid")
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	r.SwitchMiss, r.SwitchCost, r.SwitchFlow, err = r.traffic(ctx, pid)
	return err
}

// traffic sends the frames, never more than a window before what came out. It returns how many per second came out in the
// best of several rounds, what they cost the process that switches, and the flow that was put for the last.
func (r *odpResult) traffic(ctx context.Context, pid int) (rate float64, cost missCost, flow string, err error) {
	in, err := packetSocket(missIn)
	if err != nil {
		return 0, cost, "", err
	}
	defer unix.Close(in)
	out, err := packetSocket(missOut)
	if err != nil {
		return 0, cost, "", err
	}
	defer unix.Close(out)
	if err := teach(in, out); err != nil {
		return 0, cost, "", err
	}
	// A busy machine may keep a switch waiting for long, and that is not loss.
	if err := unix.SetsockoptTimeval(out, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: missPatience}); err != nil {
		return 0, cost, "", err
	}
	cost, err = processTime(pid, missRounds*r.Misses, func() error {
		for round := range missRounds {
			passed, err := r.pass(in, out, round*r.Misses)
			if err != nil {
				return err
			}
			rate = max(rate, passed)
		}
		return nil
	})
	if err != nil {
		return 0, cost, "", err
	}
	if flow, err = putFlow(ctx, missFrame(missRounds*r.Misses-1)); err != nil {
		return 0, cost, "", err
	}
	cost.Calls, err = systemCalls(ctx, pid, r.Misses, func() error {
		_, err := r.pass(in, out, missRounds*r.Misses)
		return err
	})
	if err != nil {
		cost.Uncounted = err.Error()
	}
	return rate, cost, flow, nil
}

// startProfile begins to write a profile into a file, unless that has no name.
func startProfile(name string) (stop func() error, err error) {
	if name == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// missTo is the destination of all frames; missFrame is the n-th of them, from a source of its own.
const missTo = "\x02\x03\x00\x00\x00\x01"

func missFrame(n int) []byte {
	frame := make([]byte, 60)
	copy(frame, missTo)
	copy(frame[6:], []byte{2, 2, 0, byte(n >> 16), byte(n >> 8), byte(n), missType >> 8, missType & 0xff})
	return frame
}

const missType = 0x88b5

// teach has the switch learn where the destination is, which may take a while after it was set up: frames to its port's side get through.
func teach(in, out int) error {
	hello := make([]byte, 60)
	copy(hello[6:], missTo)
	copy(hello, "\x02\x02\x00\xff\xff\xff")
	binary.BigEndian.PutUint16(hello[12:], missType)
	for range 20 {
		if _, err := unix.Write(out, hello); err != nil {
			return err
		}
		if ok, err := next(in); ok || err != nil {
			return err
		}
	}
	return errors.New("the switch does not work")
}

// next waits for a frame of ours, as long as the socket does.
func next(fd int) (bool, error) {
	buf := make([]byte, 2048)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case err != nil && err != unix.EINTR:
			return false, err
		case n >= 14 && binary.BigEndian.Uint16(buf[12:]) == missType:
			return true, nil
		}
	}
}

// pass sends the frames of a round, which have not been seen before, and returns how many per second came out.
func (r *odpResult) pass(in, out, first int) (float64, error) {
	start := time.Now()
	sent, got, lost := 0, 0, 0
	for got+lost < r.Misses {
		for sent < r.Misses && sent-got-lost < missWindow {
			if _, err := unix.Write(in, missFrame(first+sent)); err != nil {
				return 0, err
			}
			sent++
		}
		ok, err := next(out)
		if err != nil {
			return 0, err
		}
		if ok {
			got++
		} else if lost = sent - got; lost > r.Misses/100 { // the window is lost
			return 0, fmt.Errorf("%d of %d frames were lost", lost, sent)
		}
	}
	return float64(got) / time.Since(start).Seconds(), nil
}

// putFlow returns the flow that was put for a frame, and an error if there is none.
func putFlow(ctx context.Context, frame []byte) (string, error) {
	c, err := odp.Open(ctx, odp.Config{})
	if err != nil {
		return "", err
	}
	defer c.Close()
	for dp, err := range c.Datapaths(ctx) {
		if err != nil {
			return "", err
		}
		for f, err := range c.Flows(ctx, dp.Index, odp.DumpOptions{}) {
			if err != nil {
				return "", err
			}
			if eth, _, ok := odp.Get[odp.Ethernet](f.Match); ok && string(eth.Src[:]) == string(frame[6:12]) {
				return f.Match.String() + " " + odp.Notation{}.Actions(f.Actions), nil
			}
		}
	}
	return "", errors.New("no flow was put")
}

// packetSocket receives and sends the frames of a device; reading waits for a second.
func packetSocket(device string) (int, error) {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return 0, err
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return 0, err
	}
	err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index})
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}))
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

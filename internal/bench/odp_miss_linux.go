package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/pprof"
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
)

// Where the time goes (odp -cpuprofile FILE, then go tool pprof): seven tenths of this process's time are the sender's and the
// receiver's system calls, in which the kernel also forwards the frame, looks it up and hands up the miss. A sixth is the one system call
// per batch in which it puts the flows and executes the packets, and the one that receives the misses. A tenth is ours: finding
// addresses in the key, deciding, and encoding match and actions. ovs-vswitchd makes as many system calls; it translates each
// frame through its OpenFlow tables, and revalidates what it put.

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
	if r.Miss, r.Flow, err = r.missesOurs(ctx, profile); err != nil {
		return fmt.Errorf("misses: %w", err)
	}
	if r.SwitchMiss, r.SwitchFlow, err = r.missesSwitch(ctx); err != nil {
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

// missesOurs runs a learning switch: for each miss a flow is put and the packet executed, all of a read in one batch.
func (r *odpResult) missesOurs(ctx context.Context, profile string) (rate float64, flow string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := odp.Open(ctx, odp.Config{})
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	up, err := c.OpenUpcalls(odp.UpcallConfig{})
	if err != nil {
		return 0, "", err
	}
	defer up.Close()
	dp, err := c.CreateDatapath(ctx, odp.DatapathSpec{Name: missBridge})
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = c.DeleteDatapath(context.WithoutCancel(ctx), dp.Index) }()
	s := learner{conn: c, dp: dp.Index, behind: make(map[odp.MAC]uint32)}
	for _, name := range []string{missInPort, missOutPort} {
		v, err := c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: name, Type: odp.Netdev, UpcallPIDs: []uint32{up.PID()}})
		if err != nil {
			return 0, "", err
		}
		s.ports = append(s.ports, odp.Output(v.Number))
	}
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, up) }()
	rate, flow, err = r.traffic(ctx, profile)
	cancel()
	if ferr := <-done; !errors.Is(ferr, context.Canceled) {
		err = errors.Join(err, ferr)
	}
	return rate, flow, err
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
func (r *odpResult) missesSwitch(ctx context.Context) (rate float64, flow string, err error) {
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
		return 0, "", ctx.Err()
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
			return 0, "", fmt.Errorf("%v: %w: %.300s", args, err, out)
		}
	}
	return r.traffic(ctx, "")
}

// traffic sends the frames, never more than a window before what came out. It returns how many per second came out in the
// best of several rounds, and the flow that was put for the last.
func (r *odpResult) traffic(ctx context.Context, profile string) (rate float64, flow string, err error) {
	in, err := packetSocket(missIn)
	if err != nil {
		return 0, "", err
	}
	defer unix.Close(in)
	out, err := packetSocket(missOut)
	if err != nil {
		return 0, "", err
	}
	defer unix.Close(out)
	if err := teach(in, out); err != nil {
		return 0, "", err
	}
	stop, err := startProfile(profile)
	if err != nil {
		return 0, "", err
	}
	for round := range missRounds {
		passed, perr := r.pass(in, out, round*r.Misses)
		rate, err = max(rate, passed), errors.Join(err, perr)
	}
	if err = errors.Join(err, stop()); err != nil {
		return 0, "", err
	}
	flow, err = putFlow(ctx, missFrame(missRounds*r.Misses-1))
	return rate, flow, err
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

// next waits for a frame of ours, at most a second.
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
		} else if lost = sent - got; lost > r.Misses/100 { // nothing for a second: the window is lost
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

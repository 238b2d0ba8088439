package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
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
)

// measureMisses sends frames of which each has a new pair of addresses, through a switch on package odp and through ovs-vswitchd.
func (r *odpResult) measureMisses(ctx context.Context) (err error) {
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
	if r.Miss, err = r.missesOurs(ctx); err != nil {
		return fmt.Errorf("misses: %w", err)
	}
	if r.SwitchMiss, err = r.missesSwitch(ctx); err != nil {
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

// missesOurs runs a switch that floods: for each miss a flow is put and the packet executed, all of a read in one batch.
func (r *odpResult) missesOurs(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := odp.Open(ctx, odp.Config{})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	up, err := c.OpenUpcalls(odp.UpcallConfig{})
	if err != nil {
		return 0, err
	}
	defer up.Close()
	dp, err := c.CreateDatapath(ctx, odp.DatapathSpec{Name: missBridge})
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.DeleteDatapath(context.WithoutCancel(ctx), dp.Index) }()
	in, err := c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: missInPort, Type: odp.Netdev, UpcallPIDs: []uint32{up.PID()}})
	if err != nil {
		return 0, err
	}
	out, err := c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: missOutPort, Type: odp.Netdev})
	if err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { done <- flood(ctx, c, up, dp.Index, out.Number) }()
	rate, err := r.traffic()
	cancel()
	if ferr := <-done; !errors.Is(ferr, context.Canceled) {
		err = errors.Join(err, ferr)
	}
	if d, derr := c.DatapathByIndex(context.WithoutCancel(ctx), dp.Index); derr == nil && int(d.Stats.Flows) < r.Misses {
		err = errors.Join(err, fmt.Errorf("only %d flows on port %d", d.Stats.Flows, in.Number))
	}
	return rate, err
}

func flood(ctx context.Context, c *odp.Conn, up *odp.UpcallReader, dp odp.Index, out uint32) error {
	ups := make([]odp.Upcall, 64)
	actions := []odp.Action{odp.Output(out)}
	var b odp.Batch
	for {
		n, err := up.Read(ctx, ups)
		if err != nil {
			return err
		}
		b.Reset()
		for _, u := range ups[:n] {
			port, _ := u.Key.InPort()
			eth, _ := u.Key.Ethernet()
			b.PutFlow(dp, odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(port)), odp.Exact(eth)}, Actions: actions})
			b.Execute(dp, odp.Execute{Packet: u.Packet, Key: u.Key, Hash: u.Hash, Actions: actions})
		}
		if err := c.Run(ctx, &b); err != nil {
			return err
		}
	}
}

// missesSwitch runs ovs-vswitchd with a learning bridge.
func (r *odpResult) missesSwitch(ctx context.Context) (float64, error) {
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
		return 0, ctx.Err()
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
			return 0, fmt.Errorf("%v: %w: %.300s", args, err, out)
		}
	}
	return r.traffic()
}

// traffic sends the frames, never more than a window before what came out, and returns how many per second came out.
func (r *odpResult) traffic() (float64, error) {
	in, err := packetSocket(missIn)
	if err != nil {
		return 0, err
	}
	defer unix.Close(in)
	out, err := packetSocket(missOut)
	if err != nil {
		return 0, err
	}
	defer unix.Close(out)
	frame := make([]byte, 60)
	binary.BigEndian.PutUint16(frame[12:], 0x88b5)
	buf := make([]byte, 2048)
	start := time.Now()
	sent, got, lost := 0, 0, 0
	for got+lost < r.Misses {
		for sent < r.Misses && sent-got-lost < missWindow {
			copy(frame, []byte{2, 2, 0, byte(sent >> 16), byte(sent >> 8), byte(sent), 2, 3, 0, byte(sent >> 16), byte(sent >> 8), byte(sent)})
			if _, err := unix.Write(in, frame); err != nil {
				return 0, err
			}
			sent++
		}
		n, err := unix.Read(out, buf)
		switch {
		case err == unix.EAGAIN: // nothing for a second: the window is lost
			if lost = sent - got; lost > r.Misses/100 {
				return 0, fmt.Errorf("%d of %d frames were lost", lost, sent)
			}
		case err != nil && err != unix.EINTR:
			return 0, err
		case n >= 14 && binary.BigEndian.Uint16(buf[12:]) == 0x88b5:
			got++
		}
	}
	return float64(got) / time.Since(start).Seconds(), nil
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

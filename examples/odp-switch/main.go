// Command odp-switch makes an Ethernet switch of network devices: it learns which address is behind which, and installs a flow for
// each pair of addresses, so that the kernel switches all packets but the first.
//
//	ip link add a0 type veth peer name a1 netns a
//	ip link add b0 type veth peer name b1 netns b
//	odp-switch a0 b0
//
// The devices must be up. The datapath goes away when the command ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/overweave/overweave/odp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "odp-switch:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, devices []string) (err error) {
	c, err := odp.Open(ctx, odp.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	upcalls, err := c.OpenUpcalls(odp.UpcallConfig{})
	if err != nil {
		return err
	}
	defer upcalls.Close()
	dp, err := c.CreateDatapath(ctx, odp.DatapathSpec{Name: "odp-switch"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.DeleteDatapath(context.WithoutCancel(ctx), dp.Index)) }()

	s := learner{conn: c, dp: dp.Index, behind: make(map[odp.MAC]uint32)}
	for _, name := range devices {
		v, err := c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: name, Type: odp.Netdev, UpcallPIDs: []uint32{upcalls.PID()}})
		if err != nil {
			return err
		}
		s.ports = append(s.ports, v.Number)
		fmt.Printf("port %d: %s\n", v.Number, name)
	}
	ups := make([]odp.Upcall, 64)
	for {
		n, err := upcalls.Read(ctx, ups)
		if err != nil {
			return err
		}
		if err := s.handle(ctx, ups[:n]); err != nil {
			return err
		}
	}
}

// learner is the switch: it knows its ports, and the port behind which each address was seen last.
type learner struct {
	conn   *odp.Conn
	dp     odp.Index
	ports  []uint32
	behind map[odp.MAC]uint32
	batch  odp.Batch
}

// handle decides what happens to missed packets, and tells the kernel all of it at once.
func (s *learner) handle(ctx context.Context, ups []odp.Upcall) error {
	s.batch.Reset()
	for _, up := range ups {
		in, _ := up.Key.InPort()
		eth, ok := up.Key.Ethernet()
		if !ok {
			continue
		}
		if old, known := s.behind[eth.Src]; known && old != in {
			// The address has moved: flows towards its old place are wrong.
			if err := s.conn.FlushFlows(ctx, s.dp); err != nil {
				return err
			}
		}
		s.behind[eth.Src] = in
		actions := s.decide(in, eth.Dst)
		if _, learned := s.behind[eth.Dst]; learned {
			s.batch.PutFlow(s.dp, odp.Flow{
				Match:   odp.Match{odp.Exact(odp.InPort(in)), odp.Exact(eth)},
				Actions: actions,
			})
		}
		s.batch.Execute(s.dp, odp.Execute{Packet: up.Packet, Key: up.Key, Hash: up.Hash, MRU: up.MRU, Actions: actions})
	}
	err := s.conn.Run(ctx, &s.batch)
	if failed := (*odp.BatchError)(nil); errors.As(err, &failed) {
		fmt.Fprintln(os.Stderr, "odp-switch:", err) // the others were done
		return nil
	}
	return err
}

// decide returns the actions for a packet: out by the port that is known, or by all others.
func (s *learner) decide(in uint32, dst odp.MAC) (out []odp.Action) {
	if port, known := s.behind[dst]; known {
		if port == in {
			return nil
		}
		return []odp.Action{odp.Output(port)}
	}
	for _, port := range s.ports {
		if port != in {
			out = append(out, odp.Output(port))
		}
	}
	return out
}

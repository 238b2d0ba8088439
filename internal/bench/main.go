// Command bench measures whole packages where a Go benchmark is too small a frame: many peers in one process, two hosts in
// namespaces, one implementation against another in the same run.
//
//	go run ./internal/bench NAME [flags] [--json]
//
// Each measurement prints a table for people or, with --json, one object. `list` names them.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/overweave/overweave/internal/lab"
)

// measurement is one sub-command.
type measurement struct {
	name, about string
	run         func(ctx context.Context, args []string, out io.Writer) error
}

func measurements() []measurement {
	return []measurement{
		{"fastdp", "two containers on two hosts in the kernel: fastdp next to VXLAN, in the clear and in ESP; many MACs", runFastDP},
		{"ipam", "one allocator: allocations in memory and on disk, merging a gossiped ring, memory", runIPAM},
		{"mesh", "many peers in one process over TCP: time and cost to agree on who is there", runMesh},
		{"odp", "flows and misses of the Open vSwitch datapath, beside ovs-dpctl and ovs-vswitchd", runODP},
		{"sleeve", "two containers on two hosts: sleeve next to the kernel's VXLAN and wireguard-go", runSleeve},
	}
}

func main() {
	lab.Boot() // as the init of a guest there are no arguments yet
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 || args[0] == "list" {
		for _, m := range measurements() {
			fmt.Fprintf(out, "%-8s %s\n", m.name, m.about)
		}
		return nil
	}
	for _, m := range measurements() {
		if m.name == args[0] {
			return m.run(ctx, args[1:], out)
		}
	}
	return fmt.Errorf("no measurement %q; `list` names them", args[0])
}

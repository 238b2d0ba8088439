package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/overweave/overweave/examples/weaver/demo"
	"github.com/overweave/overweave/internal/lab"
)

// demoFlags are the flags of demo as typed.
type demoFlags struct {
	hosts, seconds int
	password       string
	overlay, mode  string
	keep, asJSON   bool
}

func newDemo() *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show it all on this machine: hosts and containers in namespaces, a daemon on each host",
		Args:  cobra.NoArgs,
	}
	s := cmd.Flags()
	s.IntVar(&f.hosts, "hosts", 2, "how many hosts")
	s.IntVar(&f.seconds, "seconds", 3, "how long to measure TCP")
	s.StringVar(&f.password, "password", "", "password of the peers; set to nothing: no encryption (default: a random one)")
	s.StringVar(&f.overlay, "overlay", "", "carry frames by this overlay alone: fastdp2, fastdp, sleeve2 or sleeve (default: the best of all)")
	s.StringVar(&f.mode, "mode", "", "mode of the daemons, see launch")
	s.BoolVar(&f.keep, "keep", false, "keep everything running until interrupted")
	s.BoolVar(&f.asJSON, "json", false, "print one JSON object instead of a table")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.seconds < 1 {
			return fmt.Errorf("--seconds %d: want at least 1", f.seconds)
		}
		code, done, err := lab.Reexec()
		if err != nil {
			return err
		}
		if done {
			return exitCode(code)
		}
		if !s.Changed("password") {
			f.password = rand.Text()
		}
		return f.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func (f *demoFlags) run(ctx context.Context, out, progress io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := demo.Config{
		Hosts: f.hosts, Password: f.password, Stream: time.Duration(f.seconds) * time.Second,
		Daemon: self, Progress: progress, Terminal: isTerminal(os.Stderr),
	}
	for flag, value := range map[string]string{"--overlays": f.overlay, "--mode": f.mode} {
		if value != "" {
			c.Flags = append(c.Flags, flag, value)
		}
	}
	if f.keep {
		c.Keep = func(ctx context.Context, cluster *demo.Cluster) { keep(ctx, cluster, progress) }
	}
	report, err := demo.Run(ctx, c)
	if f.asJSON {
		if errOut := json.NewEncoder(out).Encode(report); err == nil {
			err = errOut
		}
		return err
	}
	if err == nil {
		fmt.Fprintln(out)
		report.WriteTable(out)
	}
	return err
}

// keep tells how to look around, and waits until ctx ends.
func keep(ctx context.Context, cluster *demo.Cluster, out io.Writer) {
	fmt.Fprintln(out, "\nEverything runs until you interrupt this. To look around:")
	for _, h := range cluster.Hosts {
		fmt.Fprintf(out, "  nsenter --net=%s ip addr       # in %s\n", h.Container.Path(), h.Container.Name())
		fmt.Fprintf(out, "  weaver status --http-addr %s   # the daemon of %s\n", h.Socket(), h.Name)
	}
	<-ctx.Done()
}

// isTerminal reports whether f is one, so that a line on it can be redrawn.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/odp"
)

// odpResult is what runODP measures. Rates are per second.
type odpResult struct {
	Flows      int     `json:"flows"`
	Single     float64 `json:"put_one_by_one"`
	Batch      float64 `json:"put_in_batches"`
	ToolPut    float64 `json:"put_by_ovs_dpctl"`
	Dump       float64 `json:"dump_and_print"`
	ToolDump   float64 `json:"dump_by_ovs_dpctl"`
	Misses     int     `json:"misses"`
	Miss       float64 `json:"misses_handled"`
	SwitchMiss float64 `json:"misses_handled_by_ovs_vswitchd"`
	Flow       string  `json:"flow_of_a_miss"`
	SwitchFlow string  `json:"flow_of_a_miss_by_ovs_vswitchd"`
	Missing    string  `json:"missing,omitempty"` // why a figure of another program is 0

	Cost       missCost `json:"cost_of_a_miss"`
	SwitchCost missCost `json:"cost_of_a_miss_by_ovs_vswitchd"`
}

// runODP measures package odp next to the tools of Open vSwitch, on the same kernel: a guest's if this one has no datapath.
func runODP(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("odp", flag.ContinueOnError)
	flows := fs.Int("flows", 10000, "flows to put and to list")
	misses := fs.Int("misses", 2500, "packets of new pairs of addresses, in each of three rounds")
	profile := fs.String("cpuprofile", "", "write a profile of our handling of misses to this file")
	serve := fs.Bool("serve", false, "be the switch that misses are measured on (how the measurement starts it)")
	asJSON := fs.Bool("json", false, "print one JSON object")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *serve {
		return serveMisses(ctx, *profile, out)
	}
	if done, err := elsewhere(lab.OpenVSwitch); done || err != nil {
		return err
	}
	r := odpResult{Flows: *flows, Misses: *misses}
	if err := r.measureFlows(ctx); err != nil {
		return err
	}
	if err := r.measureMisses(ctx, *profile); err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	r.print(out)
	return nil
}

func (r *odpResult) print(out io.Writer) {
	line := func(what string, ours, theirs float64, who string) {
		fmt.Fprintf(out, "%-34s %10.0f/s   %-14s %10.0f/s   ratio %.2f\n", what, ours, who, theirs, ours/max(theirs, 1e-9))
	}
	fmt.Fprintf(out, "%d flows, %d misses\n", r.Flows, r.Misses)
	line("put in batches", r.Batch, r.Single, "one by one")
	line("put in batches", r.Batch, r.ToolPut, "ovs-dpctl")
	line("list and print", r.Dump, r.ToolDump, "ovs-dpctl")
	line("misses: upcall, flow, execute", r.Miss, r.SwitchMiss, "ovs-vswitchd")
	fmt.Fprintf(out, "a miss costs us:           %s\na miss costs ovs-vswitchd: %s\n", r.Cost, r.SwitchCost)
	fmt.Fprintf(out, "the flow of a miss, ours:         %s\nthe flow of a miss, ovs-vswitchd: %s\n", r.Flow, r.SwitchFlow)
	if r.Missing != "" {
		fmt.Fprintln(out, "missing:", r.Missing)
	}
}

const odpBenchName = "odpbench"

func (r *odpResult) measureFlows(ctx context.Context) error {
	c, err := odp.Open(ctx, odp.Config{Timeout: time.Minute})
	if err != nil {
		return err
	}
	defer c.Close()
	dp, err := c.CreateDatapath(ctx, odp.DatapathSpec{Name: odpBenchName, Features: odp.Unaligned | odp.PerCPU, UpcallPIDs: []uint32{1}})
	if err != nil {
		return err
	}
	defer func() { _ = c.DeleteDatapath(context.WithoutCancel(ctx), dp.Index) }()
	flows := manyFlows(r.Flows)
	if r.Single, err = r.rate(func() error {
		for _, f := range flows {
			if err := c.PutFlow(ctx, dp.Index, f); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := c.FlushFlows(ctx, dp.Index); err != nil {
		return err
	}
	var b odp.Batch
	if r.Batch, err = r.rate(func() error {
		for _, f := range flows {
			b.PutFlow(dp.Index, f)
		}
		return c.Run(ctx, &b)
	}); err != nil {
		return err
	}
	if r.Dump, err = r.medianRate(func() error { return printFlows(ctx, c, dp.Index, r.Flows) }); err != nil {
		return err
	}
	return r.measureTool(ctx, c, dp.Index, flows)
}

// rate returns how many flows per second f handles.
func (r *odpResult) rate(f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return float64(r.Flows) / time.Since(start).Seconds(), err
}

// medianRate is the median of five.
func (r *odpResult) medianRate(f func() error) (float64, error) {
	var rates []float64
	for range 5 {
		rate, err := r.rate(f)
		if err != nil {
			return 0, err
		}
		rates = append(rates, rate)
	}
	return median(rates), nil
}

func manyFlows(n int) (flows []odp.Flow) {
	for i := range n {
		src := odp.MAC{2, 1, byte(i >> 16), byte(i >> 8), byte(i), 1}
		flows = append(flows, odp.Flow{
			Match:   odp.Match{odp.Exact(odp.InPort(1)), odp.Exact(odp.Ethernet{Src: src, Dst: odp.MAC{2, 0, 0, 0, 0, 2}}), odp.Exact(odp.TypeARP)},
			Actions: []odp.Action{odp.Output(2)},
		})
	}
	return flows
}

func printFlows(ctx context.Context, c *odp.Conn, dp odp.Index, want int) error {
	n := 0
	for f, err := range c.Flows(ctx, dp, odp.DumpOptions{}) {
		if err != nil {
			return err
		}
		fmt.Fprintln(io.Discard, f)
		n++
	}
	if n != want {
		return fmt.Errorf("%d flows listed instead of %d", n, want)
	}
	return nil
}

// measureTool has ovs-dpctl do the same.
func (r *odpResult) measureTool(ctx context.Context, c *odp.Conn, dp odp.Index, flows []odp.Flow) error {
	if _, err := exec.LookPath("ovs-dpctl"); err != nil {
		r.Missing = "ovs-dpctl (Debian's openvswitch-switch)"
		return nil
	}
	file, err := os.CreateTemp("", "flows")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	for _, f := range flows {
		all, err := f.Match.Complete()
		if err != nil {
			return err
		}
		fmt.Fprintf(file, "%s,arp() %s\n", odp.Match(all), odp.Notation{}.Actions(f.Actions))
	}
	if err := errors.Join(file.Close(), c.FlushFlows(ctx, dp)); err != nil {
		return err
	}
	tool := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "ovs-dpctl", args...)
		cmd.Stdout = io.Discard
		msg := &limited{}
		cmd.Stderr = msg
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("ovs-dpctl %v: %w: %s", args, err, msg.b)
		}
		return nil
	}
	if r.ToolPut, err = r.rate(func() error { return tool("add-flows", odpBenchName, file.Name()) }); err != nil {
		return err
	}
	if err := printFlows(ctx, c, dp, r.Flows); err != nil {
		return fmt.Errorf("after ovs-dpctl add-flows: %w", err)
	}
	r.ToolDump, err = r.medianRate(func() error { return tool("dump-flows", odpBenchName) })
	return err
}

// limited keeps the beginning of what a command says.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	if len(l.b) < 1000 {
		l.b = append(l.b, p...)
	}
	return len(p), nil
}

// elsewhere runs this measurement in a guest kernel if the running one lacks a feature, and reports whether it did.
func elsewhere(needs ...lab.Feature) (done bool, err error) {
	code, done, err := lab.ReexecOnKernel(needs...)
	if err == nil && done && code != 0 {
		err = fmt.Errorf("in the guest kernel: exit code %d", code)
	}
	return done, err
}

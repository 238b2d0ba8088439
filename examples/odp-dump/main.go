// Command odp-dump prints the datapaths of the Open vSwitch kernel module, their ports and their flows, as `ovs-dpctl show` and
// `ovs-dpctl dump-flows` do. Listing takes no privileges. With -m it also prints what is wildcarded.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/overweave/overweave/odp"
)

func main() {
	verbose := flag.Bool("m", false, "print wildcarded fields, identifiers and port names too")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "odp-dump:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, verbose bool) error {
	c, err := odp.Open(ctx, odp.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	for dp, err := range c.Datapaths(ctx) {
		if err != nil {
			return err
		}
		header(out, dp)
		names, err := ports(ctx, c, dp, out)
		if err != nil {
			return err
		}
		n := odp.Notation{Verbose: verbose, Now: odp.MonotonicTime()}
		if verbose {
			n.PortName = func(number uint32) string { return names[number] }
		}
		if err := flows(ctx, c, dp, n, out); err != nil {
			return err
		}
	}
	return nil
}

// header prints what is known of a datapath as a whole.
func header(out io.Writer, dp odp.Datapath) {
	s, packets := dp.Stats, max(dp.Stats.Hit+dp.Stats.Missed, 1)
	fmt.Fprintf(out, "system@%s:\n  lookups: hit:%d missed:%d lost:%d\n  flows: %d\n", dp.Name, s.Hit, s.Missed, s.Lost, s.Flows)
	fmt.Fprintf(out, "  masks: hit:%d total:%d hit/pkt:%.2f\n", dp.Masks.Hit, dp.Masks.Masks, float64(dp.Masks.Hit)/float64(packets))
	if hits := dp.Masks.CacheHit; hits > 0 {
		fmt.Fprintf(out, "  cache: hit:%d hit-rate:%.2f%%\n", hits, float64(hits)/float64(packets)*100)
	}
	fmt.Fprintf(out, "  caches:\n    masks-cache: size:%d\n", dp.MasksCache)
}

// ports prints the ports and returns their names.
func ports(ctx context.Context, c *odp.Conn, dp odp.Datapath, out io.Writer) (map[uint32]string, error) {
	names := make(map[uint32]string)
	for v, err := range c.Vports(ctx, dp.Index) {
		if err != nil {
			return nil, err
		}
		names[v.Number] = v.Name
		fmt.Fprintf(out, "  port %d: %s", v.Number, v.Name)
		if v.Type != odp.Netdev {
			fmt.Fprintf(out, " (%s)", v.Type)
		}
		fmt.Fprintln(out)
	}
	return names, nil
}

func flows(ctx context.Context, c *odp.Conn, dp odp.Datapath, n odp.Notation, out io.Writer) error {
	for f, err := range c.Flows(ctx, dp.Index, odp.DumpOptions{}) {
		if err != nil {
			return err
		}
		if f.ActionsOmitted { // there are too many for a listing
			if whole, err := c.GetFlow(ctx, dp.Index, f); err == nil {
				f = whole
			}
		}
		fmt.Fprintln(out, n.Flow(f))
	}
	return nil
}

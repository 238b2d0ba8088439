// Command counter shows a value that all peers of a mesh share: a counter that anybody raises and nobody owns.
//
//	counter -name 0a::1 -listen 127.0.0.1:7001
//	counter -name 0a::2 -listen 127.0.0.1:7002 127.0.0.1:7001
//
// Each raises it once a second, by one. Each keeps its own part; the sum of the parts is the count, so that it comes out
// right in whatever order, and however often, the parts arrive.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/peer"
)

// counter holds what each peer has counted; a part only grows.
type counter map[peer.Name]uint64

// MarshalBinary implements encoding.BinaryMarshaler.
func (c counter) MarshalBinary() ([]byte, error) { return json.Marshal(c) }

// Merge implements gossip.Mergeable.
func (c counter) Merge(other counter) (counter, bool) {
	union, more := maps.Clone(c), false
	for name, n := range other {
		if n > union[name] {
			union[name], more = n, true
		}
	}
	return union, more
}

func decode(b []byte) (c counter, err error) { return c, json.Unmarshal(b, &c) }

func (c counter) sum() (n uint64) {
	for _, part := range c {
		n += part
	}
	return n
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "counter:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	c := mesh.Config{Name: peer.Random()}
	fs := flag.NewFlagSet("counter", flag.ContinueOnError)
	fs.TextVar(&c.Name, "name", c.Name, "name of this peer")
	fs.TextVar(&c.Listen, "listen", netip.MustParseAddrPort("0.0.0.0:6783"), "address to listen on")
	if err := fs.Parse(args); err != nil {
		return err
	}
	c.Targets = fs.Args()
	router, err := mesh.New(c)
	if err != nil {
		return err
	}
	count, err := gossip.NewState(router, "counter", counter{}, decode, func(c counter) { fmt.Fprintln(out, c.sum()) })
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			count.Change(func(now counter) counter { return counter{c.Name: now[c.Name] + 1} })
		}
	}
}

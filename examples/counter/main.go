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
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/overweave/overweave/examples/internal/member"
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

func main() { member.Main("counter", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	router, err := member.New(args)
	if err != nil {
		return err
	}
	count, err := gossip.NewState(router, "counter", counter{}, decode, func(c counter) { fmt.Fprintln(out, c.sum()) })
	if err != nil {
		return err
	}
	self := router.Self().Name
	return member.Run(ctx, router, time.Second, func() {
		count.Change(func(now counter) counter { return counter{self: now[self] + 1} })
	})
}

// Command presence shows who is in a mesh, live in the terminal.
//
//	presence -nick anna -listen 127.0.0.1:7001
//	presence -nick ben -listen 127.0.0.1:7002 127.0.0.1:7001
//
// It needs no channel: a mesh knows its members. A peer that ends is gone at once, one that is cut off after a minute.
package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/overweave/overweave/examples/internal/member"
	"github.com/overweave/overweave/mesh"
)

func main() { member.Main("presence", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	router, err := member.New(args)
	if err != nil {
		return err
	}
	return member.Run(ctx, router, 200*time.Millisecond, func() { show(out, router) })
}

// show draws the list again, from the top of the terminal.
func show(out io.Writer, router *mesh.Router) {
	const home, clear = "\x1b[H", "\x1b[J"
	members := router.Members()
	fmt.Fprint(out, home, clear)
	fmt.Fprintf(out, "%d here\n\n", len(members))
	for _, m := range members {
		mark := " "
		if m.Name == router.Self().Name {
			mark = "*"
		}
		fmt.Fprintf(out, "%s %s  %s\n", mark, m.Name, m.Nickname)
	}
}

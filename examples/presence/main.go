// Command presence shows who is in a mesh, live in the terminal.
//
//	presence -nick anna -listen 127.0.0.1:7001
//	presence -nick ben -listen 127.0.0.1:7002 127.0.0.1:7001
//
// It needs no channel: a mesh knows its members. A peer that ends is gone at once, one that is cut off after a minute.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/peer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "presence:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	hostname, _ := os.Hostname() // a nickname may be empty
	c := mesh.Config{Name: peer.Random()}
	fs := flag.NewFlagSet("presence", flag.ContinueOnError)
	fs.StringVar(&c.Nickname, "nick", hostname, "nickname")
	fs.TextVar(&c.Listen, "listen", netip.MustParseAddrPort("0.0.0.0:6783"), "address to listen on")
	if err := fs.Parse(args); err != nil {
		return err
	}
	c.Targets = fs.Args()
	router, err := mesh.New(c)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			show(out, router)
		}
	}
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

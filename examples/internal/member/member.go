// Package member is what the small examples of the mesh have in common: a peer made from a command line, which runs until
// it is interrupted.
package member

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

// Main runs a command until it ends or is interrupted, and ends the process if it fails.
func Main(command string, run func(ctx context.Context, args []string, out io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, command+":", err)
		os.Exit(1)
	}
}

// New makes a peer from flags and the addresses of peers to connect to.
func New(args []string) (*mesh.Router, error) {
	c := mesh.Config{Name: peer.Random()}
	hostname, _ := os.Hostname() // a nickname may be empty
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.TextVar(&c.Name, "name", c.Name, "name of this peer")
	fs.StringVar(&c.Nickname, "nick", hostname, "nickname")
	fs.TextVar(&c.Listen, "listen", netip.MustParseAddrPort("0.0.0.0:6783"), "address to listen on")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	c.Targets = fs.Args()
	return mesh.New(c)
}

// Run runs a peer until ctx ends, and calls tick again and again meanwhile.
func Run(ctx context.Context, router *mesh.Router, every time.Duration, tick func()) error {
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ticker.C:
			tick()
		}
	}
}

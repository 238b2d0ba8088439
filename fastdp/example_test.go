package fastdp_test

import (
	"context"
	"fmt"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/odptest"
)

// A datapath over a kernel in memory; without ODP it is this machine's.
func Example() {
	self := peer.MustParse("0a:00:00:00:00:01")
	d, err := fastdp.New(fastdp.Config{
		Self: self, Forwarder: overlay.NewForwarder(self), ODP: odp.Config{Dial: odptest.New().Dial},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	fmt.Println(d.Overlay2().Name(), d.Overlay().Name(), d.Status().MTU)
	cancel()
	fmt.Println(<-done)
	// Output:
	// fastdp2 fastdp 1376
	// <nil>
}

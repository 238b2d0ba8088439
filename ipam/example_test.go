package ipam_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// One peer that makes a ring of its own. In a program the bus is a mesh, and the store one of OpenStore.
func Example() {
	bus := gossiptest.New(gossiptest.Config{})
	self := gossip.Member{Name: peer.MustParse("0a:00:00:00:00:01"), UID: peer.NewUID(), Nickname: "host1"}
	a, err := ipam.New(ipam.Config{
		Bus:      bus.Node(self),
		Universe: netip.MustParsePrefix("10.32.0.0/12"),
		Birth:    ipam.Consensus(1),
		Store:    new(ipam.MemStore),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()

	for _, owner := range []string{"web", "db", "web"} {
		addr, err := a.Allocate(ctx, owner, netip.Prefix{})
		fmt.Println(owner, addr, err)
	}
	fmt.Println(a.Free(ctx, "db", netip.MustParseAddr("10.32.0.2")))
	fmt.Println(a.Status().State, a.Status().ActiveIPs)

	cancel()
	fmt.Println(<-done)
	// Output:
	// web 10.32.0.1/12 <nil>
	// db 10.32.0.2/12 <nil>
	// web 10.32.0.1/12 <nil>
	// <nil>
	// ready 1
	// <nil>
}

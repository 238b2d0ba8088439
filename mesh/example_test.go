package mesh_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/peer"
)

// wait looks again and again until something is so.
func wait(so func() bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !so() {
		<-tick.C
	}
}

// Two peers find each other: one listens, the other is told where.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	run := func(c mesh.Config) *mesh.Router {
		c.Listen = netip.MustParseAddrPort("127.0.0.1:0")
		c.Password = []byte("a secret of both")
		r, err := mesh.New(c)
		if err != nil {
			panic(err)
		}
		wg.Go(func() { _ = r.Run(ctx) })
		wait(func() bool { return r.Addr().IsValid() })
		return r
	}
	one := run(mesh.Config{Name: peer.MustParse("0a::1"), Nickname: "one"})
	two := run(mesh.Config{Name: peer.MustParse("0a::2"), Nickname: "two", Targets: []string{one.Addr().String()}})
	wait(func() bool { return len(two.Members()) == 2 })
	for _, m := range two.Members() {
		fmt.Println(m.Name, m.Nickname)
	}
	stop()
	wg.Wait()
	// Output:
	// 0a:00:00:00:00:01 one
	// 0a:00:00:00:00:02 two
}

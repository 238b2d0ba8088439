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
		for !r.Addr().IsValid() {
			time.Sleep(time.Millisecond)
		}
		return r
	}
	one := run(mesh.Config{Name: peer.MustParse("0a::1"), Nickname: "one"})
	two := run(mesh.Config{Name: peer.MustParse("0a::2"), Nickname: "two", Targets: []string{one.Addr().String()}})
	for len(two.Members()) < 2 {
		time.Sleep(time.Millisecond)
	}
	for _, m := range two.Members() {
		fmt.Println(m.Name, m.Nickname)
	}
	stop()
	wg.Wait()
	// Output:
	// 0a:00:00:00:00:01 one
	// 0a:00:00:00:00:02 two
}

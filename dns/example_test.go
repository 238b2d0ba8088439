package dns_test

import (
	"fmt"
	"net/netip"

	"github.com/overweave/overweave/dns"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// A table needs a bus: the mesh, or, as here, one in memory.
func Example() {
	node := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: peer.MustParse("0a:00:00:00:00:01")})
	table, err := dns.New(dns.Config{Bus: node})
	if err != nil {
		panic(err)
	}
	if err := table.Register("web.weave.local", "container-1", netip.MustParseAddr("10.32.0.1")); err != nil {
		panic(err)
	}
	addrs, _ := table.Lookup("web.weave.local")
	name, _ := table.Reverse(addrs[0])
	fmt.Println(addrs, name)
	fmt.Println(table.Unregister(dns.Match{Owner: "container-1"}))
	// Output:
	// [10.32.0.1] web.weave.local.
	// 1
}

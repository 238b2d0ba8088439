package peer_test

import (
	"fmt"

	"github.com/overweave/overweave/mesh/peer"
)

func Example() {
	n, err := peer.Parse("a::1")
	fmt.Println(n, err)
	_, err = peer.Parse("a:b")
	fmt.Println(err)
	// Output:
	// 0a:00:00:00:00:01 <nil>
	// invalid peer name "a:b": want six hex groups such as 0a:00:00:00:00:01
}

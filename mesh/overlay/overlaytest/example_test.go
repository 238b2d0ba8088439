package overlaytest_test

import (
	"fmt"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
)

func Example() {
	network := overlaytest.NewNetwork()
	conn := overlaytest.Connect(
		overlaytest.End{Overlay: network.Overlay(alice, "memory"), Self: alice},
		overlaytest.End{Overlay: network.Overlay(bob, "memory"), Self: bob},
		1, nil)
	if err := conn.Up(); err != nil {
		panic(err)
	}
	defer conn.Close()

	fmt.Println((<-conn.A.Events).Kind == overlay.Established)
	conn.A.Link.Send([]overlay.Frame{{Data: []byte("an Ethernet frame"), Src: alice, Dst: bob}})
	fmt.Printf("%s\n", (<-conn.B.Frames).Data)
	// Output:
	// true
	// an Ethernet frame
}

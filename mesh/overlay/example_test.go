package overlay_test

import (
	"fmt"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
)

// A forwarder learns where stations are from the frames that it decides about.
func Example() {
	self, neighbour := peer.MustParse("02:00:00:00:00:01"), peer.MustParse("02:00:00:00:00:02")
	f := overlay.NewForwarder(self)
	f.SetRoutes(overlaytest.Routes{
		Hops:   map[peer.Name]peer.Name{neighbour: neighbour},
		Floods: map[peer.Name][]peer.Name{self: {neighbour}},
	})
	ours, _ := overlay.ParseMAC("52:54:00:00:00:01")
	theirs, _ := overlay.ParseMAC("52:54:00:00:00:02")

	fmt.Println(f.Captured(time.Now(), theirs, ours).Flood)
	f.Received(time.Now(), neighbour, self, ours, theirs)
	fmt.Println(f.Captured(time.Now(), theirs, ours).Hop)
	// Output:
	// [02:00:00:00:00:02]
	// 02:00:00:00:00:02
}

package sleeve_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

// Two peers carry a frame without a mesh: what the mesh tells an overlay of a connection is given by hand. The network is in
// memory; with sleeve.Listen in place of network.Listen it is a real one.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	network := sleevetest.New(1)
	key := [32]byte{1, 2, 3} // agreed between the peers

	open := func(self peer.Name, addr string) *sleeve.Overlay {
		socket, err := network.Listen(netip.MustParseAddrPort(addr))
		if err != nil {
			panic(err)
		}
		o, err := sleeve.New(sleeve.Config{Self: self, Socket: socket})
		if err != nil {
			panic(err)
		}
		running.Go(func() { _ = o.Run(ctx) })
		return o
	}
	a, b := open(0x0a0000000001, "10.0.0.1:6783"), open(0x0a0000000002, "10.0.0.2:6783")

	var atA, atB overlay.Link
	up, received := make(chan bool, 2), make(chan string, 1)
	connect := func(o *sleeve.Overlay, p overlay.Params, other *overlay.Link) overlay.Link {
		p.ConnUID, p.Key = 42, &key
		p.SendControl = func(tag byte, payload []byte) error { go (*other).Control(tag, payload); return nil }
		p.Report = func(e overlay.Event) { up <- e.Kind == overlay.Established }
		p.Receive = func(frames []overlay.Frame) { received <- string(frames[0].Data[overlay.HeaderLen:]) }
		link, err := o.Prepare(p)
		if err != nil {
			panic(err)
		}
		return link
	}
	atA = connect(a, overlay.Params{Self: 0x0a0000000001, Remote: 0x0a0000000002, RemoteAddr: netip.MustParseAddrPort("10.0.0.2:6783"), Outbound: true}, &atB)
	atB = connect(b, overlay.Params{Self: 0x0a0000000002, Remote: 0x0a0000000001}, &atA)
	atA.Confirm()
	atB.Confirm()
	fmt.Println("established at one end:", <-up)
	fmt.Println("established at the other:", <-up)

	frame := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, "hello"...)
	atA.Send([]overlay.Frame{{Data: frame, Src: 0x0a0000000001, Dst: 0x0a0000000002}})
	fmt.Println("received:", <-received, "sealed:", atA.Status().Encrypted)

	atA.Close()
	atB.Close()
	cancel()
	running.Wait()
	// Output:
	// established at one end: true
	// established at the other: true
	// received: hello sealed: true
}

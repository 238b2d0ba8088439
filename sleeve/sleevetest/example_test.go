package sleevetest_test

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

// A network whose path takes packets of 1400 bytes.
func Example() {
	network := sleevetest.New(1)
	network.SetShape(sleevetest.Shape{MTU: 1400})
	a, _ := network.Listen(netip.MustParseAddrPort("10.0.0.1:6783"))
	b, _ := network.Listen(netip.MustParseAddrPort("10.0.0.2:6783"))
	defer func() { _, _ = a.Close(), b.Close() }()

	_, err := a.WriteBatch([]sleeve.Message{{Data: make([]byte, 1400), Remote: b.LocalAddr(), DontFragment: true}})
	fmt.Println("too big:", errors.Is(err, syscall.EMSGSIZE))

	_, _ = a.WriteBatch([]sleeve.Message{{Data: []byte("hello"), Remote: b.LocalAddr()}})
	in := []sleeve.Message{{Data: make([]byte, sleeve.MaxDatagram)}}
	_, _ = b.ReadBatch(0, in)
	fmt.Printf("%s from %s\n", in[0].Data, in[0].Remote)
	// Output:
	// too big: true
	// hello from 10.0.0.1:6783
}

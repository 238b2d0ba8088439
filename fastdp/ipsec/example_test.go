package ipsec_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/fastdp/ipsec"
	"github.com/overweave/overweave/fastdp/ipsec/ipsectest"
	"github.com/overweave/overweave/mesh/peer"
)

// Two ends of a tunnel announce their keys to each other; after that what they send is encrypted. The kernels are in memory
// here; OpenKernel opens the real one.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	sessionKey := [32]byte{1, 2, 3} // of the control connection
	names := [2]peer.Name{peer.MustParse("0a:00:00:00:00:01"), peer.MustParse("0a:00:00:00:00:02")}
	addrs := [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	kernels := [2]*ipsectest.Kernel{ipsectest.NewKernel(), ipsectest.NewKernel()}
	toOther := [2]chan []byte{make(chan []byte, 8), make(chan []byte, 8)} // by way of the control connection
	var tunnels [2]fastdp.Protection
	for i := range tunnels {
		p, err := ipsec.New(ipsec.Config{Kernel: kernels[i]})
		if err != nil {
			fmt.Println(err)
			return
		}
		running.Go(func() { _ = p.Run(ctx) })
		t := fastdp.Tunnel{
			Self: names[i], Remote: names[1-i], Local: addrs[i], RemoteAddr: addrs[1-i], Port: 6784, Key: &sessionKey,
		}
		send := func(payload []byte) error { toOther[i] <- payload; return nil }
		if tunnels[i], err = p.Protect(t, send, func(error) {}); err != nil {
			fmt.Println(err)
			return
		}
		defer tunnels[i].Close()
	}
	packet := ipsectest.Packet{Src: addrs[0], Dst: addrs[1], Port: 6784}
	fmt.Println("before:", ipsectest.Send(kernels[0], kernels[1], packet).Outcome)
	for i := range tunnels {
		tunnels[1-i].Control(<-toOther[i])
	}
	fmt.Println("after:", ipsectest.Send(kernels[0], kernels[1], packet).Outcome)
	// Output:
	// before: unsent
	// after: encrypted
}

package dnsserver_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/overweave/overweave/dns/dnsserver"
)

// hosts is a zone of a few names. A table of the package dns is one too.
type hosts map[string]netip.Addr

func (h hosts) Lookup(name string) ([]netip.Addr, bool) {
	addr, ok := h[name]
	return []netip.Addr{addr}, ok
}

func (h hosts) Reverse(netip.Addr) (string, bool) { return "", false }

func Example() {
	sockets, err := dnsserver.Listen("127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server, err := dnsserver.New(dnsserver.Config{
		Sockets: sockets,
		Zone:    hosts{"web.weave.local.": netip.MustParseAddr("10.32.0.1")},
		TTL:     5 * time.Second,
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()

	answer, err := dns.Exchange(new(dns.Msg).SetQuestion("web.weave.local.", dns.TypeA), sockets.Addr().String())
	if err != nil {
		panic(err)
	}
	fmt.Println(answer.Answer[0])
	cancel()
	fmt.Println(<-done)
	// Output:
	// web.weave.local.	5	IN	A	10.32.0.1
	// <nil>
}

package readme

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/dns"
	"github.com/overweave/overweave/dns/dnsserver"
	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/sleeve"
)

// TestReadme: every Go block of the README stands in this file, line by line.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("readme_test.go")
	require.NoError(t, err)
	have := dedent(string(source))
	blocks := strings.Split(string(readme), "```go\n")[1:]
	require.NotEmpty(t, blocks)
	for _, b := range blocks {
		code, _, _ := strings.Cut(b, "```")
		require.Contains(t, have, dedent(code))
	}
}

// dedent removes the indentation of all lines.
func dedent(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimLeft(lines[i], "\t ")
	}
	return strings.Join(lines, "\n")
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// board is gossiped state: it hears what others say.
type board struct{ heard chan string }

// line is a piece of it on its way.
type line string

func (l line) Encode() [][]byte                { return [][]byte{[]byte(l)} }
func (l line) Merge(o gossip.Data) gossip.Data { return l + "\n" + o.(line) }

func (b board) OnUnicast(peer.Name, []byte) error { return nil }
func (b board) OnBroadcast(from peer.Name, msg []byte) (gossip.Data, error) {
	b.heard <- fmt.Sprintf("%s says %s", from, msg)
	return line(msg), nil
}
func (b board) OnGossip([]byte) (gossip.Data, error) { return nil, nil }
func (b board) OnPeerGone(peer.Name)                 {}
func (b board) State() gossip.Data                   { return nil }

func Example_mesh() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	heard := make(chan string, 1)
	first, err := mesh.New(mesh.Config{Name: peer.MustParse("02::1"), Listen: netip.MustParseAddrPort("127.0.0.1:0"), Password: []byte("secret")})
	check(err)
	_, err = first.Join("board", board{heard})
	check(err)
	go first.Run(ctx)
	for !first.Addr().IsValid() || first.Addr().Port() == 0 {
		<-tick()
	}
	address, listen := first.Addr().String(), netip.MustParseAddrPort("127.0.0.1:0")

	router, err := mesh.New(mesh.Config{
		Name:     peer.MustParse("02::2"), // 48 bits, written like a MAC address: one for each peer, for good
		Listen:   listen,                  // so that others can connect to it
		Targets:  []string{address},       // some peers; the rest is found through them
		Password: []byte("secret"),
	})
	check(err)
	sender, err := router.Join("board", board{heard}) // a gossip.Receiver says what to do with messages
	check(err)
	go router.Run(ctx) // until ctx ends; channels are joined before
	for len(router.Members()) < 2 {
		<-tick()
	}
	sender.Broadcast(line("hello")) // to all who are there

	fmt.Println(<-heard)
	// Output: 02:00:00:00:00:02 says hello
}

func Example_ipam() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	router, err := mesh.New(mesh.Config{Name: peer.MustParse("02::1")})
	check(err)

	alloc, err := ipam.New(ipam.Config{Bus: router, Universe: netip.MustParsePrefix("10.32.0.0/12")})
	check(err)
	go alloc.Run(ctx)
	go router.Run(ctx)
	addr, err := alloc.Allocate(ctx, "container-1", netip.Prefix{}) // the same for each call with this owner
	check(err)

	fmt.Println(addr)
	// Output: 10.32.0.1/12
}

func Example_dns() {
	ctx, stop := context.WithCancel(context.Background())
	router, err := mesh.New(mesh.Config{Name: peer.MustParse("02::1")})
	check(err)

	names, err := dns.New(dns.Config{Bus: router})
	check(err)
	check(names.Register("web.weave.local", "container-1", netip.MustParseAddr("10.32.0.1")))
	sockets, err := dnsserver.Listen("127.0.0.1:0") // UDP and TCP
	check(err)
	server, err := dnsserver.New(dnsserver.Config{Sockets: sockets, Zone: names}) // then run names, server and router
	check(err)

	done := make(chan error)
	go func() { done <- server.Run(ctx) }()
	fmt.Println(ask(sockets.Addr(), "web.weave.local."))
	stop()
	check(<-done)
	// Output: [10.32.0.1]
}

func Example_sleeve() {
	name, tap := peer.MustParse("02::1"), overlaytest.NewPort("tap0")
	listen := netip.MustParseAddrPort("127.0.0.1:0")

	socket, err := sleeve.Listen(listen) // UDP, with the port that the mesh has for TCP
	check(err)
	udp, err := sleeve.New(sleeve.Config{Self: name, Socket: socket})
	check(err)
	sw, err := overlay.NewSwitch(overlay.SwitchConfig{Self: name, Overlays: []overlay.Overlay{udp}, Port: tap}) // tap: see sleeve/port
	check(err)
	router, err := mesh.New(mesh.Config{Name: name, Listen: listen, Switch: sw}) // then run udp, sw and router

	check(err)
	fmt.Println(sw.Offer(), router.Self().Name)
	check(socket.Close())
	// Output: sleeve 02:00:00:00:00:01
}

func Example_crypto() {
	theirs, err := crypto.GenerateKeyPair()
	check(err)
	password, theirPublic := []byte("a long password"), theirs.Public()

	ours, err := crypto.GenerateKeyPair()
	check(err)
	key, err := ours.Session(theirPublic[:], password) // send ours.Public(); they compute the same
	check(err)
	sealed := crypto.NewDatagramSealer(key, true).Seal(nil, crypto.DontFragment, []byte("hello"))
	opened, _, err := crypto.NewDatagramOpener(key, true).Open(nil, sealed) // once: a replay is an error

	fmt.Println(string(opened), err)
	// Output: hello <nil>
}

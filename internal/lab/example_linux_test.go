package lab_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/netip"

	"github.com/overweave/overweave/internal/lab"
)

// a --- [lan] --- b
func Example() {
	l, err := lab.New() // a program calls lab.Reexec first
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	lan, _ := l.Switch("lan")
	a, _ := l.Host("a")
	b, _ := l.Host("b")
	_, _ = lan.Join(a, netip.MustParsePrefix("10.0.0.1/24"))
	_, _ = lan.Join(b, netip.MustParsePrefix("10.0.0.2/24"))

	server, err := b.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(conn, "hello, %v", conn.RemoteAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Addr())
		_ = conn.Close()
	}()
	conn, err := a.DialContext(context.Background(), "tcp", "10.0.0.2:80")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	said, _ := io.ReadAll(conn)
	fmt.Println(string(said))
	// Output: hello, 10.0.0.1
}

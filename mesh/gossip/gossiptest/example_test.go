package gossiptest_test

import (
	"context"
	"fmt"
	"time"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// mailbox is a component without state of its own.
type mailbox chan string

func (m mailbox) OnUnicast(from peer.Name, msg []byte) error {
	m <- fmt.Sprintf("%s says %s", from, msg)
	return nil
}
func (m mailbox) OnBroadcast(peer.Name, []byte) (gossip.Data, error) { return nil, nil }
func (m mailbox) OnGossip([]byte) (gossip.Data, error)               { return nil, nil }
func (m mailbox) OnPeerGone(peer.Name)                               {}
func (m mailbox) State() gossip.Data                                 { return nil }

// Outside a bubble of testing/synctest the bus runs in real time.
func Example() {
	bus := gossiptest.New(gossiptest.Config{Seed: 1})
	a := bus.Node(gossip.Member{Name: peer.MustParse("02::1")})
	b := bus.Node(gossip.Member{Name: peer.MustParse("02::2")})
	send, _ := a.Join("mail", make(mailbox, 1))
	inbox := make(mailbox, 1)
	_, _ = b.Join("mail", inbox)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = bus.Run(ctx) }()
	for send.Unicast(ctx, b.Self().Name, []byte("hello")) != nil {
		<-time.After(time.Millisecond) // until the bus runs
	}
	fmt.Println(<-inbox)
	// Output: 02:00:00:00:00:01 says hello
}

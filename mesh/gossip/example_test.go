package gossip_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// highest is the simplest gossiped state: the highest number that anyone has named.
type highest struct {
	mu     sync.Mutex
	number number
	heard  chan number // what others named
}

// number is gossip.Data: the union of two numbers is the higher one.
type number int

func (n number) Encode() [][]byte { return [][]byte{[]byte(strconv.Itoa(int(n)))} }

func (n number) Merge(other gossip.Data) gossip.Data { return max(n, other.(number)) }

// merge returns the number in msg and whether it was new.
func (h *highest) merge(msg []byte) (n number, fresh bool, err error) {
	v, err := strconv.Atoi(string(msg))
	if err != nil {
		return 0, false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n = number(v)
	if fresh = n > h.number; fresh {
		h.number = n
		h.heard <- n
	}
	return n, fresh, nil
}

func (h *highest) OnUnicast(_ peer.Name, msg []byte) error {
	_, _, err := h.merge(msg)
	return err
}

func (h *highest) OnBroadcast(_ peer.Name, msg []byte) (gossip.Data, error) {
	n, _, err := h.merge(msg)
	if err != nil {
		return nil, err
	}
	return n, nil // new or not: peers further down the tree wait for it
}

func (h *highest) OnGossip(msg []byte) (gossip.Data, error) {
	n, fresh, err := h.merge(msg)
	if err != nil || !fresh {
		return nil, err
	}
	return n, nil // only what was new
}

func (h *highest) OnPeerGone(peer.Name) {}

func (h *highest) State() gossip.Data {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.number
}

// A component joins a channel of a bus and broadcasts its changes. The bus may be the mesh, or one in memory as here.
func Example() {
	bus := gossiptest.New(gossiptest.Config{})
	first := &highest{number: 7, heard: make(chan number, 1)}
	second := &highest{heard: make(chan number, 1)}
	for i, h := range []*highest{first, second} {
		node := bus.Node(gossip.Member{Name: peer.Name(i + 1)})
		if _, err := node.Join("highest", h); err != nil {
			panic(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = bus.Run(ctx) }()
	fmt.Println("second has heard of", <-second.heard) // from the first one's State, as they came into reach
	// Output: second has heard of 7
}

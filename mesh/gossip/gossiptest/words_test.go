package gossiptest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
	"github.com/overweave/overweave/mesh/peer"
)

// words is a component with gossiped state: a set of words that only grows. It logs what it is called with.
type words struct {
	mu    sync.Mutex
	known map[string]bool
	log   []string
	block chan struct{} // if not nil, OnUnicast waits for it
	send  gossip.Sender
}

type wordData struct {
	w    *words
	list []string
}

func (d wordData) Encode() [][]byte {
	d.w.mu.Lock() // the sender's lock: Encode may not run within Broadcast
	defer d.w.mu.Unlock()
	var out [][]byte
	for _, word := range d.list {
		out = append(out, []byte(word))
	}
	return out
}

func (d wordData) Merge(other gossip.Data) gossip.Data {
	return wordData{d.w, append(slices.Clone(d.list), other.(wordData).list...)}
}

func (w *words) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *words) learn(msg []byte) (fresh bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh = !w.known[string(msg)]
	w.known[string(msg)] = true
	return fresh
}

func (w *words) say(word string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known[word] = true
	w.send.Broadcast(wordData{w, []string{word}})
}

func (w *words) OnUnicast(from peer.Name, msg []byte) error {
	if w.block != nil {
		<-w.block
	}
	w.note("unicast %s %s", from, msg)
	switch {
	case bytes.Equal(msg, []byte("panic")):
		panic("as asked")
	case bytes.Equal(msg, []byte("error")):
		return errors.New("as asked")
	}
	w.learn(msg)
	return nil
}

func (w *words) OnBroadcast(from peer.Name, msg []byte) (gossip.Data, error) {
	w.note("broadcast %s %s", from, msg)
	w.learn(msg)
	return wordData{w, []string{string(msg)}}, nil
}

func (w *words) OnGossip(msg []byte) (gossip.Data, error) {
	w.note("gossip %s", msg)
	if w.learn(msg) {
		return wordData{w, []string{string(msg)}}, nil
	}
	return nil, nil
}

func (w *words) OnPeerGone(name peer.Name) { w.note("gone %s", name) }

func (w *words) State() gossip.Data {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.known) == 0 {
		return nil
	}
	return wordData{w, slices.Sorted(maps.Keys(w.known))}
}

func (w *words) entries() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

func (w *words) knows() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.known))
}

func name(i int) peer.Name { return peer.Name(0x020000000000 + uint64(i)) }

// world is a running bus with a words component on each node.
type world struct {
	bus   *gossiptest.Bus
	nodes []*gossiptest.Node
	words []*words
}

func newWords(t *testing.T, n *gossiptest.Node) *words {
	w := &words{known: map[string]bool{}}
	send, err := n.Join("words", w)
	require.NoError(t, err)
	w.send = send
	return w
}

// newWorld runs a bus with so many nodes until the test ends.
func newWorld(t *testing.T, c gossiptest.Config, size int) *world {
	w := &world{bus: gossiptest.New(c)}
	for i := range size {
		n := w.bus.Node(gossip.Member{Name: name(i), UID: peer.UID(i + 1)})
		w.nodes = append(w.nodes, n)
		w.words = append(w.words, newWords(t, n))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.bus.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	synctest.Wait()
	return w
}

func (w *world) requireAllKnow(t *testing.T, want ...string) {
	t.Helper()
	for i := range w.words {
		require.Equal(t, want, w.words[i].knows(), "node %d", i)
	}
}

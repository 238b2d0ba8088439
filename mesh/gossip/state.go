package gossip

import (
	"encoding"
	"fmt"
	"sync"

	"github.com/overweave/overweave/mesh/peer"
)

// Mergeable is state that several peers change and that merges: in any order, twice or late, the result is the same.
type Mergeable[T any] interface {
	encoding.BinaryMarshaler
	// Merge returns the union of the receiver and other, and whether that is more than the receiver. It changes neither.
	Merge(other T) (union T, more bool)
}

// State is a value that all peers of a channel share. What one changes arrives at the others, and what is lost is repaired
// by the carrier's periodic exchange. It is a [Receiver] without unicasts. It is safe for concurrent use.
type State[T Mergeable[T]] struct {
	decode  func([]byte) (T, error)
	changed func(T)
	sender  Sender

	mu    sync.Mutex
	value T
}

// NewState joins a channel with a value to begin with. decode reads what MarshalBinary has made; it is given bytes from the
// network. changed, which may be nil, is called after others have changed the value, by one goroutine at a time.
func NewState[T Mergeable[T]](bus Bus, channel string, initial T, decode func([]byte) (T, error), changed func(T)) (*State[T], error) {
	s := &State[T]{decode: decode, changed: changed, value: initial}
	sender, err := bus.Join(channel, (*stateReceiver[T])(s))
	if err != nil {
		return nil, err
	}
	s.sender = sender
	return s, nil
}

// Value returns the value as it is known here.
func (s *State[T]) Value() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value
}

// Change calls f with the value and merges what it returns: the new value, or just what is new in it. If that is a change it is
// spread. f must not change its argument, nor call the State.
func (s *State[T]) Change(f func(T) T) {
	s.mu.Lock()
	delta := f(s.value)
	union, more := s.value.Merge(delta)
	s.value = union
	s.mu.Unlock()
	if more {
		s.sender.Broadcast(stateData[T]{delta})
	}
}

// merge takes what has come, and reports whether it was new.
func (s *State[T]) merge(msg []byte) (delta T, more bool, err error) {
	if delta, err = s.decode(msg); err != nil {
		return delta, false, err
	}
	s.mu.Lock()
	s.value, more = s.value.Merge(delta)
	value := s.value
	s.mu.Unlock()
	if more && s.changed != nil {
		s.changed(value)
	}
	return delta, more, nil
}

// stateReceiver keeps the carrier's calls out of the methods of State.
type stateReceiver[T Mergeable[T]] State[T]

func (r *stateReceiver[T]) OnUnicast(from peer.Name, _ []byte) error {
	return fmt.Errorf("unexpected unicast from %s", from)
}

func (r *stateReceiver[T]) OnBroadcast(_ peer.Name, msg []byte) (Data, error) {
	delta, _, err := (*State[T])(r).merge(msg)
	if err != nil {
		return nil, err
	}
	return stateData[T]{delta}, nil
}

func (r *stateReceiver[T]) OnGossip(msg []byte) (Data, error) {
	delta, more, err := (*State[T])(r).merge(msg)
	if err != nil || !more {
		return nil, err
	}
	return stateData[T]{delta}, nil
}

func (r *stateReceiver[T]) OnPeerGone(peer.Name) {}

func (r *stateReceiver[T]) State() Data { return stateData[T]{(*State[T])(r).Value()} }

// stateData is a value on its way.
type stateData[T Mergeable[T]] struct{ value T }

func (d stateData[T]) Encode() [][]byte {
	b, err := d.value.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("gossip: state does not encode: %v", err)) // the carrier counts it as the channel's fault
	}
	return [][]byte{b}
}

func (d stateData[T]) Merge(other Data) Data {
	o, ok := other.(stateData[T])
	if !ok {
		return d
	}
	union, _ := d.value.Merge(o.value)
	return stateData[T]{union}
}

// Package gossip is the contract between state that is gossiped and whoever carries it.
//
// A component with gossiped state (an address ring, a table of names, anything an application brings) joins a named
// channel of a [Bus]: it hands over a [Receiver] and gets a [Sender]. The mesh engine is a Bus. The package gossiptest
// has another one, deterministic and in memory, and an application may bring its own, so that such components work
// without the mesh.
//
// # What a carrier promises
//
// Messages between two peers may be lost, delayed, repeated and reordered; state must be such that merging the same
// thing twice, or late, does no harm. What is lost is repaired: every gossip interval, and when a peer comes into
// reach, the carrier asks each Receiver for its complete state and sends it to some neighbours.
//
// A channel's faults stay in the channel. An error or a panic in a Receiver is counted and logged; it closes no link
// and disturbs no other channel.
package gossip

import (
	"context"
	"errors"

	"github.com/overweave/overweave/mesh/peer"
)

var (
	// ErrUnreachable is wrapped by errors of [Sender.Unicast]: no route, no link to the next hop, or the peer is
	// ourselves.
	ErrUnreachable = errors.New("peer unreachable")
	// ErrChannelTaken is wrapped by errors of [Bus.Join]: the channel has a receiver.
	ErrChannelTaken = errors.New("gossip channel taken")
	// ErrRunning is wrapped by errors of [Bus.Join]: the carrier runs, and its channels are settled before that.
	ErrRunning = errors.New("carrier is running")
)

// MaxMessage is the largest payload, in bytes, that every carrier takes: what one message of Weave Net 2.8 may hold
// (10 MiB), less room for seal and header.
const MaxMessage = 10<<20 - 1<<10

// Data is a piece of a channel's state that waits to be sent. A carrier merges what waits for a slow link into one
// Data, and encodes it when the link is free.
//
// One Data may be queued for many links at once: both methods may be called from several goroutines at the same time,
// and at any time after it was handed over.
type Data interface {
	// Encode returns the messages that convey the data, usually one. The carrier keeps the slices and does not change
	// them. Encode may look at live state rather than at a copy. A message longer than [MaxMessage] is dropped, and counted
	// as a fault of the channel.
	Encode() [][]byte

	// Merge returns the union of the receiver and other, which is Data of the same channel. It changes neither. It may be
	// called from within Broadcast and Gossip of that channel's [Sender], so it takes no locks that are held around those.
	Merge(other Data) Data
}

// Sender sends on one channel. It is safe for concurrent use. None of its methods calls back into the Receiver, so
// they may be called with the component's locks held; all they may call of the component is [Data.Merge].
type Sender interface {
	// Unicast sends msg to one peer, over several hops if need be. It copies msg. It does not wait for an answer, nor
	// for the message to arrive: nil means that it was queued for the next hop. It waits for room in that queue as long
	// as ctx allows.
	Unicast(ctx context.Context, to peer.Name, msg []byte) error

	// Broadcast sends data to every peer in reach, along a tree, each passing it on. It never blocks.
	Broadcast(data Data)

	// Gossip sends data to some neighbours, chosen at random. Those pass on what was new to them. It never blocks.
	Gossip(data Data)
}

// Receiver is what a component offers to a channel. A carrier calls the methods of one Receiver one at a time, from a
// goroutine that serves this channel only: a Receiver that blocks delays its own channel, whose bounded queue then
// drops what comes in. Payloads come from the network and are hostile; the slices are the Receiver's to keep.
//
// A Data result is passed on to others by the carrier; nil means that there is nothing to pass on.
type Receiver interface {
	// OnUnicast handles a message that another peer sent to this one.
	OnUnicast(from peer.Name, msg []byte) error

	// OnBroadcast merges a message that from spread over the mesh. Its result is all that was received, new or not,
	// since peers further down the tree depend on it.
	OnBroadcast(from peer.Name, msg []byte) (Data, error)

	// OnGossip merges a message from a neighbour. Its result is only what was new; old news would circulate.
	OnGossip(msg []byte) (Data, error)

	// OnPeerGone tells that a peer has left the carrier's membership.
	OnPeerGone(name peer.Name)

	// State returns the complete state, or nil if there is none. It must be quick.
	State() Data
}

// Bus carries channels, and knows who takes part. It is safe for concurrent use. Self, Member and Members never wait and
// never call back, so they may be called with a component's locks held.
type Bus interface {
	// Join registers r for a channel. Channels are joined before the carrier runs; one that carries already refuses
	// with an error that wraps [ErrRunning]. It does not call r before it returns.
	Join(channel string, r Receiver) (Sender, error)

	// Self describes the peer that this end of the bus belongs to.
	Self() Member

	// Member describes a peer, ourselves included; ok is false if it is not in the membership.
	Member(name peer.Name) (m Member, ok bool)

	// Members lists everyone in the membership, ourselves included, in order of names.
	Members() []Member
}

// Member is a peer as a carrier knows it.
type Member struct {
	Name     peer.Name
	UID      peer.UID // 0 while only the name is known
	Nickname string   // for people only; may be empty
}

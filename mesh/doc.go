// Package mesh is the gossip mesh engine: peers hold TCP connections to some others, learn of all the rest from them, and
// carry the messages of named channels between everybody, relaying where two peers have no connection of their own. There
// is no central store, and every peer is equal. It speaks the wire of Weave Net 2.8, so that both can be in one mesh.
//
// A [Router] is one peer. [New] validates a [Config] and starts nothing; components join channels with [Router.Join], for
// which Router is a gossip.Bus; [Router.Run] takes part in the mesh until its context ends. With an overlay.Switch in the
// Config the router also drives a data plane: it prepares a bundle of links for each connection, and keeps the switch's
// routes.
//
// # What it does with faults
//
// A channel's receiver that fails, panics or blocks hurts its own channel: it has goroutines and bounded queues of its own,
// and connections never wait for it. Only one that never returns outlives Run, which then says so (ErrReceiver). A peer
// that sends what cannot be decoded loses its connection. A peer that is silent, or takes nothing, for a minute loses it
// too. Everything that comes from others is bounded: messages by 10 MiB, the peers of a topology by 16384 and their lists of
// connections by 64 MiB (room.go), channels that are only passed on by 64, connections in introduction by 256, of which one
// address has a quarter at most.
//
// # Between peers of this package
//
// Weave Net tells the whole list of a peer's connections for each change, to many, and everything to many every 30 s. Two
// peers of this package agree in the introduction to do otherwise (delta.go): news goes along few links, in a short form,
// and digests find out what got lost. Nothing is compressed, since full states are rare then. They also measure the round
// trip, and tell on which port they listen, so that a peer with a port of its own can be dialled by those that have learned
// of it. Config.NoDeltas turns all that off.
//
// # Where it differs from Weave Net
//
//   - An application's error ends no connection (section 5.8 of the mesh specification), nor does a full queue.
//   - Own updates of the topology are sent at once if there was none for a while, later under churn (section 4.4).
//   - The full state of channels goes to a new connection if gossip did not reach its peer before; Weave Net asks whether
//     frames would (section 4.4).
//   - A topology update that comes as broadcast is handled like one that comes from a neighbour.
//   - An acceptor with a password sends its features after those of the initiator have opened (section 11.4).
//   - A peer that connects with another UID than before replaces its old connection, whatever the connection ids.
//   - Names of all zeros, public keys of low order, short ids above 4095, versions from 2^62 on and lists that name a peer twice
//     are refused or ignored. What others say of our own run and we have not said is outrun, like news of an earlier run.
//   - One address gets half of the connections that are accepted, at most; those beyond are closed at once (sources.go).
//   - The connection limit shapes and does not refuse (shape.go), but for Weave Net's peers that are in reach otherwise. A target
//     that leads to a connected peer is not dialled.
//   - Two other peers with one name are noticed, and their targets tried now and then.
//   - Targets of the operator that do not answer are dialled every 10 to 30 s at the latest; Weave Net waits up to 9 minutes.
//   - Questions for a host name end after 10 s, and so does each attempt to connect to one of its addresses, of which 16 are
//     tried at most.
//   - Unicasts do not go back where they came from, nor do broadcasts of unknown channels.
//
// # Reading the source
//
// router.go has the public calls; engine.go the one goroutine that owns links, topology and targets, with links.go how it gains
// and loses links, and news.go what it hears and tells over them; link.go a connection, which begins with handshake.go and is
// written through outbox.go and lane.go; accept.go and sources.go who is let in; channel.go the way to applications;
// topology.go, room.go, graph.go, dialer.go and shape.go the decisions, as plain data and functions.
package mesh

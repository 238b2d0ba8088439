// Package dnsserver answers DNS questions, over UDP and TCP, from a [Zone] of names: usually a table of the package dns,
// but any pair of look-ups will do. What is not the zone's it passes on to the host's resolvers.
//
//   - [Listen] opens the [Sockets]: they are a handle, and bound before anything runs, so that a port that is taken is
//     found out at once.
//   - [New] makes a [Server], and [Server.Run] serves until its context ends.
//
// # Who answers
//
// A name in the domain is answered from the zone, and so is a name of one label, with the domain added; but what is asked of
// a label that the zone does not know, other than its addresses, is for the world, where "com." has records. An address that
// the zone knows is answered below in-addr.arpa. Everything else is passed on as it came, over the transport it came by,
// and so is its answer. Questions for DS records belong to the parent's side and are passed on too.
//
// # Upstreams
//
// They are asked in their order, each when the one before has failed, or has been silent for a second. A failure is also an
// answer such as SERVFAIL or REFUSED, which counts only if no upstream has a better one. An answer with records wins. One
// that there are none counts when all upstreams before it have been heard, or have had half of the timeout since: the first
// may be that of a site, whose names the others do not know. Who has been silent three times in a row is asked last for a
// minute; losing a race once does not change the order.
//
// # Bounds
//
// Answers from the zone are made by the goroutines that read: one per processor, two at least, for UDP, and one for each
// connection of TCP.
// What is passed on waits in a goroutine of its own, [Config.MaxForwards] of them at most; a query over UDP beyond that is
// dropped, as the network might have done, and one over TCP fails. Connections beyond [Config.MaxConns] are closed. One
// client gets a quarter of each. The same query from several is passed on once at a time, so that one that comes back, since
// servers name each other as upstreams, ends there.
//
// Who may have questions passed on, [Config.Allow] says. A server on an address that strangers reach needs it, lest it
// becomes a tool against others.
//
// # Where it differs from Weave Net 2.8
//
// Section 3.7 of the name specification lists what 2.8 does and a good server would not; it is done the better way
// here. In short: negative answers bear an SOA record and may be cached for a moment; EDNS sizes are held between
// 512 and 4096 bytes, answered with OPT that says 1232, and other versions refused; answers that need it are compressed; a name that
// only has others below it exists; a message with two questions is malformed (RFC 9619); upstreams run the race
// described above, with a total limit. Listening on the right address only, and saying who is served, is left to the caller.
// Beside those:
//
//   - An opcode other than QUERY is refused with NOTIMP: a success would tell an updater that its update was made.
//   - Addresses that a zone gives twice are answered once (RFC 2181, section 5.2).
//   - A datagram from an upstream that does not answer the query is ignored, and not taken for a failure of the upstream:
//     anybody can send one.
//   - A query over UDP is sent again each second while there is no answer.
//   - Names with bytes that text escapes, like spaces, resolve: see [Zone].
//   - The queries of one TCP connection are answered in turn.
package dnsserver

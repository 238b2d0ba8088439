// Package dns is a table of names that every peer of a mesh holds in memory: which address has which name, and who
// said so. It is gossiped over any [gossip.Bus] on the channel "nameserver", in the form of Weave Net 2.8, so that both
// can share one mesh. The package dns/dnsserver answers DNS questions from it.
//
// # What to know
//
//   - [New] joins the channel and starts nothing; [Table.Run] takes up names of peers that the carrier did not know yet when
//     they came, and lets removed names expire.
//   - [Table.Register] and [Table.Unregister] change what this peer says. Nobody else changes that: a peer that
//     remembers something else of us, say from before our restart, is corrected.
//   - [Table.Lookup] and [Table.Reverse] answer from memory. Readers share a lock with each other, and wait only
//     while a message is merged.
//
// Nothing is kept on disk. A peer that restarts begins empty, hears the names of others within a gossip interval, and
// registers its own again.
//
// # How it converges
//
// An entry is identified by its name, origin, owner and address. Its version rises with each removal and each return;
// the higher version wins, and of equal versions the later removal. A removed entry stays as a tombstone for half an
// hour to an hour, so that peers that were out of reach do not bring it back. When a peer leaves the membership, its
// entries go at once. Entries of a peer that is not in it wait for half a minute: gossip may overtake the news of who joins.
//
// # Where it differs from Weave Net 2.8
//
// All of these are invisible on the wire to a peer of that version, or spare it a fault:
//
//   - The case of letters, those of ASCII as in DNS, never makes two entries: the first spelling stays, and Unregister
//     ignores case, as otherwise a name registered under its second spelling could not be removed with it. What others
//     remember of us from before a restart counts as first until a neighbour has been heard.
//   - Two entries of one identity in a message are merged. They are never sent: they end a process of 2.8.
//   - A message from a peer whose clock is off by more than [MaxSkew] is merged like any other and counted. When it is
//     passed on it gets our time, since 2.8 would cut the link to us for it.
//   - A bad entry in a message is dropped and counted; the rest of the message counts.
//   - Tombstones that have expired are not sent, nor taken up again from a peer that still has them, nor those of a clock
//     that is a day ahead. Our own are kept for an hour and a half, longer than by anybody else, so that a name that returns
//     is newer than whatever others hold.
//   - Versions have a bound that rises with the time, so that nobody can say the last word about the name of another.
//   - A name through which others are to exist, as names above it, has eight labels at most below the domain.
//   - Registering a name outside the domain is an error; 2.8 does nothing and reports success.
package dns

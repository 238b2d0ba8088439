// Package ipam gives out IP addresses on many hosts, without a central store and without asking anybody in the usual case.
//
// The peers divide one range of addresses, the universe, among themselves: a ring of pieces, each with one owner. A peer
// gives out addresses of its own pieces from memory, and asks another for part of a piece when they are full. The ring is
// gossiped, and merges: every peer changes only its own pieces. It is compatible with Weave Net 2.8, on the wire and in
// what it does, and can stand beside its peers in one cluster.
//
// An [Allocator] works over any [gossip.Bus]: the mesh engine, the deterministic one of gossiptest, or your own.
//
//	a, err := ipam.New(ipam.Config{Bus: bus, Universe: netip.MustParsePrefix("10.32.0.0/12"), Store: store})
//	g.Go(func() error { return a.Run(ctx) })
//	addr, err := a.Allocate(ctx, "container-1", netip.Prefix{})
//
// # What it promises
//
// An answer leaves only after it is in the Store: who was told of an address finds it again after a kill at any
// instruction, and nobody else is given it. Calls of one moment share a commit. What others hear of is stored before as
// well. Calls may be repeated: allocation is idempotent for an owner and a subnet, and so is a claim.
//
// No message stops the allocator, and none closes a link. A ring that cannot be merged is left alone and shown in
// [Status]. A piece that another peer claims, while we use addresses of it, is in dispute: nothing more is given out of
// it, what is in use is served on, and the weaker side asks the other for these addresses one by one, after which it
// gives up the rest. Address space that is not in dispute is given out all the while; only when a ring is met that was born
// apart and goes for ours, and after space was taken over, do those come first who use addresses of it: then nothing new is
// given out for some seconds, and never for more than three minutes in ten.
//
// # How the first ring comes about
//
// See [Birth]. By vote, the peers agree with a variant of Paxos on who takes part; package ipam/internal/paxos says why
// they cannot agree twice. Votes are kept in the Store, so that this holds over restarts. A vote is only as safe as the
// number of peers it rests on. If none is given, it is the number of targets and us, but not less than the number of
// peers in reach, as long as these may still vote: so who comes to a cluster joins it, and only peers that do not reach
// each other at all make rings of their own.
//
// When such rings meet, one of them is given up, by a rule that depends on what never changes, and the peers that change
// over keep the addresses they use: join.go has the rule and why it ends. Until they meet, each gives out the same
// addresses; what both gave out stays with both, and is reported in [Status].
//
// # Where this differs from Weave Net 2.8
//
// All of it is local, so that old peers notice nothing: conclusions of a vote need a quorum for the same accepted
// proposal; a merge refuses single pieces rather than rings, and for what would be lost rather than for what it looks
// like; takeover of a peer in reach is refused; a ring from the store gives out nothing new for some seconds, until a
// peer confirms it; how much is free is told in steps; a denial is only believed from the owner, and sends an allocation
// on to the next peer at once.
//
// # IPv6, and both families
//
// A universe of IPv6 is divided by the same rules, over [Channel6] and in a form of its own, so that old peers never see
// it. For both families take two allocators, each with a Store of its own.
//
// # Space of the dead
//
// The space of a peer that is out of reach for the delay, [Config.ReclaimAfter], is taken over by the others, without an
// operator. If the peer comes back, it keeps what it uses and nobody else was given, and gives up the rest.
//
// Some words first. They are about majorities, by which we mean peers in reach of each other that own more than half of the
// address space, or half of it with the first address.
//
//   - A peer is cut off if it has been in no majority for half of the delay. It gives no space away, and tells others so.
//   - A peer is fenced if it was cut off and meets a majority again. It gives out nothing, and does not rely on what it had
//     given out, until all of a majority have confirmed: sent their rings.
//   - A peer is locked if it has agreed to a takeover. It stores that before it tells anybody. It agrees to no other takeover of
//     the same peer, and confirms nothing to that peer, until it has heard what came of this one.
//   - A takeover puts tokens into a new epoch. A token stands for all of its piece there: in a merge, tokens of older epochs
//     that turn up inside are void.
//
// This is why no two peers that rely on their rings give out the same address.
//
//  1. A takeover takes the agreement of a majority, each of whom has missed the dead peer for the whole delay. Any two majorities
//     share a peer. So the dead peer has been in none for the delay, and has been cut off for half of it.
//  2. If it comes back, it is fenced until a majority has confirmed. This one, too, shares a peer with the majority that agreed;
//     and that peer either knows of the takeover and tells of it, or is still locked and does not confirm. So who returns hears of
//     the takeover before it relies on anything.
//  3. What it did with its space before, unheard, is void by the epoch. Merges remain commutative, associative and idempotent.
//  4. Space that goes from hand to hand among the cut off does not become younger: whoever takes it counts its own absence from
//     the earlier of the two last contacts with a majority. A peer that does not take part in this is given none of it.
//  5. If the one who takes over dies before that is heard of, the next one takes over both, in an epoch later than all that a
//     majority has agreed to.
//
// What this does not cover: on the losing side of a partition that outlasts the delay, containers keep the addresses they
// have, and new ones are served from the space there, while the other side gives them out again. [Status] tells (CutOff)
// from half of the delay on, and after the partition which addresses were Lost. It relies on clocks that run about
// equally fast, on stores that are not lost or put back, and on operators who take over only what is gone. Nor are the
// others safe from an old peer that got its first space from the dead in the moment before both were cut off. And one that has
// agreed to a takeover whose proposer is gone may give space to a third peer, which then confirms the dead one's return: it takes
// two deaths, a return and such a gift within one delay.
//
// # When most of the space is gone
//
// Who is left of a cluster of which most is dead cannot tell that from the losing side of a partition, and is cut off. It goes
// on using its own space for ever, also over restarts: one who was cut off while it ran is so again at once; one who was down
// for long waits for a majority to come into reach for an eighth of the delay, ten minutes at most, and then takes itself to
// be cut off. But nobody takes over the dead then, and nothing is given to newcomers. An operator who knows that the dead are
// dead says so by [Allocator.TakeOver], which works in every one of these states, and ends them.
//
// Majorities are of space and not of heads, since that is what all agree on; so they depend on who has how much, and in a
// cluster that was started all at once a few of the first may have half. Of two peers with a half each it is the one with the
// first address of the range that is a majority: it takes over the other, and the other is cut off without it.
//
// A peer that goes for good should Release its space, or be taken over. If it does not, its space is away for the delay; when
// more than half of the space is away in this manner there is no majority any more. So that a host which is replaced again
// and again, under a new name each time, does not take it all with it, a peer gives away less while others are out of reach:
// the rest in reach keeps a majority, and as much again to spare. But if more than half of a fleet's first owners are
// replaced within one delay without a word, only an operator can help.
//
// A token has 63 epochs after the first, which is how often its owner can die and be taken over. After that it stays with the
// dead, until an operator takes it over. [Status] tells this (ReclaimOff), and whatever else stands in the way: a peer that takes
// no part, one that does not tell its ring when asked, and the owner with the lowest name in reach, who alone may propose, if it
// does not.
//
// An epoch has room for 67 million versions. Peers of this package, which tell of what is free in steps, do not use them up. One
// of Weave Net 2.8 raises a version with each address that it gives out or gets back; at two a second it is in the next epoch
// after a year, and what it gives away is void from then on. The log warns when half of them are used up: let a new peer take its
// place by then.
//
// The default delay is a day: an outage of a night is over before, and half of it is long enough for a person to see to a
// partition; and a fleet that replaces a third of its hosts every day still has two thirds of its space. It is off while
// there is a peer that does not know of it, as one of Weave Net 2.8, or that was told not to take part. Old peers that
// come later are given no space that was taken over before, since what they split off has no epoch; it does not go
// to them by [Allocator.Release] either, and let them not take it over by rmpeer.
//
// # Reading the source
//
// core.go is the machine without lock, clock or goroutine, with its parts in requests.go, waiting.go, wanted.go, vote.go,
// dispute.go, takeover.go, join.go, meeting.go and life.go; standing.go says what may be done when; presence.go, fence.go and
// reclaim.go are about the dead; allocator.go is the calls, run.go the two goroutines of Run, receive.go the carrier's side,
// wire.go all that is gob. The ring, the set of free addresses and the vote are pure packages in internal.
package ipam

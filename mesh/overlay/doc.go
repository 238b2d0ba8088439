// Package overlay is the contract between the mesh, which knows peers and routes, and what carries Ethernet frames
// between them; and it is the part of that which every carrier shares: where a frame goes.
//
// The types to know:
//
//   - [Overlay] and [Link] are what a carrier such as sleeve implements; [Port] is where frames enter and leave the host.
//   - [Forwarder] decides where a frame goes. It is pure: no socket, no goroutine, and the time is an argument. It reads
//     the routes and the table of MAC addresses through atomic pointers, without locks.
//   - [Switch] runs frames: from the port through the Forwarder to the links, from the links to the port and onwards.
//     It also chooses, for each connection of the mesh, among the overlays that both ends have.
//
// # Groups
//
// Weave Net floods what is sent to a group. A [Switch] that is given somebody to announce to snoops instead (RFC 4541): it
// learns from IGMP and MLD what the stations of its host are members of, asks them for it in place of a router, and
// announces it. Peers share these [Memberships], by gossip as a rule; package gossip has what it takes:
//
//	var state *gossip.State[overlay.Memberships]
//	sw, err := overlay.NewSwitch(overlay.SwitchConfig{ // and so on
//		Announce: func(m overlay.Memberships) {
//			state.Change(func(overlay.Memberships) overlay.Memberships { return m })
//		},
//	})
//	state, err = gossip.NewState(bus, overlay.MulticastChannel, nil, overlay.ParseMemberships, sw.Forwarder().SetMemberships)
//
// Then each peer, on the way of a frame to a group of IP that has members, leaves out the branches of the flood in which there
// are none. Whatever is not known is flooded: a group without members, peers that announce nothing, such as those of Weave
// Net, peers that have just started, and those with a multicast router, which is known by its queries. So are the groups
// that are never asked for: 224.0.0.0/24, with all that share its addresses, and all nodes of IPv6. Frames come to the host of
// every peer on their way; its bridge, if it snoops, takes the queries for those of a router, and gives the switch all that
// stations send to groups.
//
// Reports of members go only to where a router may be. For a station of an older version is silent if it hears another
// report what it was about to report, and its own peer would not learn of it.
//
// # Other frames
//
// The rules are those of sections 3 to 8 of the overlay specification of Weave Net 2.8, so that mixed networks agree. The
// package overlaytest holds fakes of every seam and a suite of tests that every carrier passes.
package overlay

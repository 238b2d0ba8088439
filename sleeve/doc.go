// Package sleeve carries Ethernet frames between two peers in user space, over UDP, in the form of Weave Net 2.8. It works
// where nothing else does: without kernel modules, through NAT, over any number of relays, in the clear or sealed.
//
// [Listen] opens the UDP socket, [New] makes the [Overlay], which implements the overlay contract of mesh/overlay, and
// [Overlay.Run] reads datagrams until its context ends. The overlay's links carry frames between two neighbours; where a
// frame goes is decided by the switch in mesh/overlay.
//
// The dialling side sends its datagrams to the UDP port with the number of the TCP port that it has dialled. So [Listen] and
// mesh.Config.Listen are given the same address and port, on all peers that others dial.
//
// # A datagram
//
//	sender name (6) | [ number (8) | seal (16) ] | record | record | ...
//	record: source peer (6) | destination peer (6) | length (2) | frame
//
// The part in brackets is there if the link has a key; the records are then sealed. Datagrams go on one of two channels, D
// with the don't-fragment bit and N without, each with its own row of numbers.
//
// # A link
//
//	prepared -- Confirm --> waiting -- address known --> probing -- ConnectionEstablished --> established
//	            silent       the dialled side             heartbeat                           heartbeat every 10 s,
//	                         only listens                 every 500 ms                        fragmentation and MTU tests
//
// A link fails after 60 s without a valid heartbeat, and for no other reason: nothing that arrives and no error of the
// socket ends it. The life of a link is in machine.go and pmtu.go, which know neither sockets nor clocks. Each link runs
// one goroutine, for timers and answers; frames are sent by the caller of Send, and received by the overlay's readers.
//
// # sleeve2
//
// Two peers that both know it use a second overlay, [Overlay2], on the same socket: [Overlay.Sleeve2]. It carries super-frames
// of segmentation offload as they are, so that the TCP streams of containers are neither cut nor checksummed on their way. The
// Overlay is its fallback: offer it first, and the Overlay behind it. Its format is in sleeve2.md, with vectors in
// testdata/sleeve2.json; in short:
//
//	datagram: 0x4f | epoch (1) | 0 (2) | link (4) | number (8) | content, sealed
//	content:  frames, or a part of a super-frame, or a ping, or the answer to one | kind (1)
//	frame:    length (2) | flags and hops (1) | [ source and destination peer (12) ] | Ethernet frame
//	part:     payload of a segment | headers of the super-frame | what it is a part of (10 or 22)
//
// What matters most of the rest:
//
//   - Each end names its id of the link, what it can, and a check mark in a hello, all that goes over the mesh connection.
//   - The seal is AES-256-GCM if both have it in hardware, else ChaCha20-Poly1305, with a key for each direction and epoch,
//     by HKDF from the session key; in the clear it is the receiver's check mark. The header is authenticated, numbers are
//     taken once.
//   - An epoch ends after 10 minutes or 2^28 datagrams. A receiver opens the newest epoch, the one before, and the next.
//   - Pings establish the link, move it to another address, put it on hold after 10 s without answers, and test the path's MTU.
//   - Frames that are too long are answered, cut into IP fragments, or, if neither is right, sent in a datagram that may be
//     fragmented. DSCP and ECN go by RFC 6040. A frame comes over 63 links at most.
//
// # Cores
//
// Frames are sealed in the goroutine that sends them: for those of this host that is the switch's reader of the port, of
// which there is one for each queue that the port has. The socket has as many queues as there are cores, up to 8; what comes
// from one remote comes from one queue, is opened there and written to the port, so that flows keep their order. So a link
// opens on one core, and what it brings is limited by that; several links use several. To spread the opening of one link
// would need a second pass that puts the parts of super-frames together again, which now fall into place as they are opened.
//
// # Where the time goes
//
// Sealed TCP streams of sleeve2 spend their time on AES-GCM and on the kernel: its sockets and devices, and the two ends of
// TCP. No function of ours has a part worth speaking of, so there is little left to win. On the old wire it is
// XSalsa20-Poly1305 at the receiver that limits a stream; in the clear the checksums of segments take 19 %, which the kernel
// would take otherwise. The figures are in internal/bench, with the command that measures them.
//
// # Where this differs from Weave Net 2.8, within its wire
//
//   - Frames of one Send call are packed into datagrams at once, as 2.8 does with what is in its queue; there is no queue.
//   - Errors of the socket lose a datagram, not the link.
//   - The path MTU is asked of the kernel instead of provoking an error with a frame of 60000 bytes. If that is below the
//     search's floor of 552, the search stays at or below it.
//   - The path MTU is tested again each minute. If the kernel comes to believe in a larger one, or has done so for 10 minutes,
//     that is tried.
//   - TCP segments that arrive one by one are joined to super-frames before they go to this host's stations.
//   - A repeated ConnectionEstablished, an MTU confirmed without a search, and MTU tests below 68 bytes are ignored;
//     answers to tests are limited in rate.
//   - "Fragmentation needed" answers are limited in rate and are not given to ICMP errors, fragments other than the first,
//     and packets to groups.
//   - IPv6 packets that are too big are answered with "packet too big" if the overlay's MTU is at least 1280 and they are
//     not flooded. Others go on channel N, as in 2.8.
//   - The inner IP header is checked against the frame before it is believed.
//   - The round trip in a link's status is that of MTU tests, whose answers come over the mesh connection.
//   - The underlay may be IPv6, which adds 20 bytes to each datagram; 2.8 has IPv4 only.
//
// # What remains of its weak points
//
// On the old wire, and gone in sleeve2:
//
//   - In the clear anybody who knows two peers' names can inject frames and answers to tests, from any address. To take them
//     from known addresses alone is no way out: on a host with several addresses Weave Net's channel N may come from another
//     one.
//   - One such datagram may hold 2300 tiny broadcasts, which a receiver has to take. Sleeve2 takes none without the check mark.
//   - DSCP and ECN of inner packets are not copied.
//   - The first packets to a station that is not known yet are flooded; those that are too big and must not be cut are
//     dropped, and nobody is told. Sleeve2 sends them in pieces.
//   - IP packets behind VLAN tags are not looked at, and go on channel N.
//   - One key for both directions, without end.
//
// On both: relays open and seal what passes, there is nothing between the first peer and the last. Whoever sees the traffic
// of a link in the clear can forge it.
package sleeve

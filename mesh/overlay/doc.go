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
// The rules are those of sections 3 to 8 of the overlay specification of Weave Net 2.8, so that mixed networks agree. The
// package overlaytest holds fakes of every seam and a suite of tests that every carrier passes.
package overlay

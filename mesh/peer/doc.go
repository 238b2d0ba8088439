// Package peer holds the identities of a mesh: the Name of a peer, the UID of one run of it, and the ShortID that
// stands for it where bits are scarce.
//
// All three are small comparable values: map keys, safe for concurrent use, with no pointer inside. The zero Name and
// the zero UID are "nobody" and "no run". The package imports nothing but the standard library, so that ipam, dns and
// the overlays can speak of peers without knowing the mesh engine.
//
// Wire forms follow sections 1.1 to 1.4 of the mesh specification of Weave Net 2.8, in its MAC flavour.
package peer

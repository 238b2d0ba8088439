// Package crypto makes sessions from a password, and seals what travels in them.
//
// Two ends that know the same password exchange fresh X25519 public keys and each compute the [SessionKey]. From it they
// seal the messages of a stream ([StreamSealer], [StreamOpener]), whose numbers both ends count and which is over at the
// first message that does not open, and datagrams ([DatagramSealer], [DatagramOpener]), which carry their number, may be
// lost and reordered, and are checked against replay ([Window]).
//
// Both forms are those of Weave Net 2.8 (sections 2.5 and 2.6 of its mesh specification, section 5 of its sleeve
// specification): NaCl secretbox, XSalsa20 and Poly1305, one key for both directions, with nonces kept apart by their first
// byte. For other constructions take keys of their own with [Derive].
//
// What this protects against is limited by that wire: the password enters by one SHA-256, so that who takes part in one
// introduction can test passwords offline. Use long ones.
//
// The name hides the standard package; import it as owcrypto where both are needed.
package crypto

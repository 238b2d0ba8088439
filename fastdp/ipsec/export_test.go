package ipsec

import "github.com/overweave/overweave/mesh/peer"

// OpenESP opens a packet that is encrypted with the key of an announcement to a receiver.
func OpenESP(session [32]byte, payload []byte, receiver peer.Name, esp []byte) ([]byte, error) {
	a, err := parseAnnouncement(payload)
	if err != nil {
		return nil, err
	}
	key, err := deriveKey(&session, a.nonce, receiver)
	if err != nil {
		return nil, err
	}
	return openESP(key, esp)
}

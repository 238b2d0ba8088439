package ipsec

import "encoding/binary"

// Types of messages of XFRM netlink (section 6.1), and where in them is what we look at.
const (
	msgDelSA       = 0x11
	msgNewPolicy   = 0x13
	msgDelPolicy   = 0x14
	msgUpdPolicy   = 0x19
	msgFlushSA     = 0x1c
	msgFlushPolicy = 0x1d

	selectorSize = 56
	selectorPort = 32 // in a selector, with which all messages about policies begin
	idSize       = 24
	idSPI        = 16
)

// parseEvent reads a notification of the kernel; ok is false for those that say nothing.
func parseEvent(kind uint16, b []byte) (e Event, ok bool) {
	switch kind {
	case msgFlushSA, msgFlushPolicy:
		return Event{All: true}, true
	case msgDelSA:
		if len(b) < idSize {
			return e, false
		}
		e.SPI = binary.BigEndian.Uint32(b[idSPI:])
		return e, e.SPI != 0
	case msgNewPolicy, msgUpdPolicy, msgDelPolicy:
		if len(b) < selectorSize {
			return e, false
		}
		e.Port = binary.BigEndian.Uint16(b[selectorPort:])
		return e, e.Port != 0
	}
	return e, false
}

package mesh

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/overweave/overweave/mesh/peer"
)

// conn is one connection in a peer's list: what that peer says of it.
type conn struct {
	remote      peer.Name
	outbound    bool
	established bool
	address     address
}

// address is a TCP address as it came over the wire, in a short form: "ip:port" if it is written in the usual way,
// otherwise any text.
type address struct {
	kind byte
	raw  string
}

const (
	addrText = iota // also the empty address
	addrV4
	addrV6
	maxAddrText = 255
)

// parseAddress makes the short form of a text.
func parseAddress(text []byte) (address, error) {
	if a, ok := parseV4(text); ok {
		return a, nil
	}
	return parseAnyAddress(string(text))
}

// parseV4 reads "1.2.3.4:5", by far the most frequent.
func parseV4(text []byte) (a address, ok bool) {
	var raw [6]byte
	for i := range 5 {
		limit, end := 255, byte('.')
		if i == 3 {
			end = ':'
		} else if i == 4 {
			limit = 1<<16 - 1
		}
		v, n := 0, 0
		for n < len(text) && n < 5 && text[n] >= '0' && text[n] <= '9' {
			v, n = v*10+int(text[n]-'0'), n+1
		}
		if n == 0 || v > limit || text[0] == '0' && n > 1 {
			return a, false
		}
		if i == 4 {
			raw[4], raw[5] = byte(v>>8), byte(v)
			return address{kind: addrV4, raw: string(raw[:])}, n == len(text)
		}
		if n == len(text) || text[n] != end {
			return a, false
		}
		raw[i], text = byte(v), text[n+1:]
	}
	return a, false
}

func parseAnyAddress(text string) (address, error) {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		if a := addressOf(ap); a.String() == text {
			return a, nil
		}
	}
	if len(text) > maxAddrText {
		return address{}, fmt.Errorf("%w: address of %d bytes", errMalformed, len(text))
	}
	return address{kind: addrText, raw: text}, nil
}

func addressOf(ap netip.AddrPort) address {
	if !ap.IsValid() {
		return address{}
	}
	ip := ap.Addr().Unmap()
	var buf [18]byte
	b, kind := buf[:0], byte(addrV4)
	switch {
	case ip.Zone() != "":
		return address{kind: addrText, raw: netip.AddrPortFrom(ip, ap.Port()).String()}
	case ip.Is4():
		v4 := ip.As4()
		b = append(b, v4[:]...)
	default:
		v6 := ip.As16()
		b, kind = append(b, v6[:]...), addrV6
	}
	return address{kind: kind, raw: string(binary.BigEndian.AppendUint16(b, ap.Port()))}
}

// AddrPort returns the address, the invalid one if it is just text.
func (a address) AddrPort() netip.AddrPort {
	var ip netip.Addr
	switch {
	case a.kind == addrV4 && len(a.raw) == 6:
		ip = netip.AddrFrom4([4]byte([]byte(a.raw[:4])))
	case a.kind == addrV6 && len(a.raw) == 18:
		ip = netip.AddrFrom16([16]byte([]byte(a.raw[:16])))
	default:
		return netip.AddrPort{}
	}
	port := a.raw[len(a.raw)-2:]
	return netip.AddrPortFrom(ip, uint16(port[0])<<8|uint16(port[1]))
}

// String returns the text that travels in Weave Net's updates.
func (a address) String() string {
	if a.kind == addrText {
		return a.raw
	}
	return a.AddrPort().String()
}

// connList is a list of connections in a compact form, which is also that of topology deltas: for each the raw name of the
// remote, a byte of flags, and the address (4+2, 16+2, or one byte of length and a text). It is immutable, and kept as
// text so that it holds no pointers.
type connList string

const (
	connOutbound    = 1 << 0
	connEstablished = 1 << 1
	connKindShift   = 2
	connKnownFlags  = 1<<4 - 1

	usualConnSize = peer.NameSize + 1 + 6 // with an IPv4 address
)

// appendConn appends a connection to a list under construction.
func appendConn(b []byte, c conn) []byte {
	flags := c.address.kind << connKindShift
	if c.outbound {
		flags |= connOutbound
	}
	if c.established {
		flags |= connEstablished
	}
	b = append(c.remote.AppendBytes(b), flags)
	if c.address.kind == addrText {
		b = append(b, byte(len(c.address.raw)))
	}
	return append(b, c.address.raw...)
}

// nextConn takes the first connection of a list; ok is false if there is none, or a malformed one.
func nextConn(l connList) (c conn, rest connList, ok bool) {
	const head = peer.NameSize + 1
	if len(l) < head {
		return conn{}, "", false
	}
	for i := range peer.NameSize {
		c.remote = c.remote<<8 | peer.Name(l[i])
	}
	flags := l[head-1]
	c.outbound, c.established = flags&connOutbound != 0, flags&connEstablished != 0
	l = l[head:]
	n := 0
	switch c.address.kind = flags >> connKindShift; c.address.kind {
	case addrV4:
		n = 6
	case addrV6:
		n = 18
	case addrText:
		if len(l) == 0 {
			return conn{}, "", false
		}
		n, l = int(l[0]), l[1:]
	default:
		return conn{}, "", false
	}
	if len(l) < n || flags&^connKnownFlags != 0 || c.remote == 0 {
		return conn{}, "", false
	}
	c.address.raw = string(l[:n])
	return c, l[n:], true
}

// all goes over a list that was checked when it was made.
func (l connList) all() iter.Seq[conn] {
	return func(yield func(conn) bool) {
		for rest := l; len(rest) > 0; {
			c, next, ok := nextConn(rest)
			if !ok || !yield(c) {
				return
			}
			rest = next
		}
	}
}

// check returns an error if the list is malformed, names a peer twice, or more peers than there may be. So the entry of any
// peer fits into a message.
func (l connList) check() error {
	n, ascending, last := 0, true, peer.Name(0)
	for rest := l; len(rest) > 0; n++ {
		c, next, ok := nextConn(rest)
		if !ok || n == maxPeers {
			return fmt.Errorf("%w: connection list", errMalformed)
		}
		ascending = ascending && c.remote > last
		last, rest = c.remote, next
	}
	if !ascending && l.repeats() {
		return fmt.Errorf("%w: connection list with a peer twice", errMalformed)
	}
	return nil
}

// repeats reports whether a peer is named twice.
func (l connList) repeats() bool {
	var names []peer.Name
	for c := range l.all() {
		names = append(names, c.remote)
	}
	slices.Sort(names)
	n := len(names)
	return len(slices.Compact(names)) < n
}

func (l connList) len() (n int) {
	for range l.all() {
		n++
	}
	return n
}

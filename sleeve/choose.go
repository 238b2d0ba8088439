package sleeve

import "github.com/overweave/overweave/mesh/overlay"

// path is how a frame is sent.
type path uint8

const (
	pathD        path = iota // channel D
	pathN                    // channel N, in as many pieces as the network wants
	pathFragment             // cut into IP fragments, each on channel D
	pathAnswer               // not: its sender is told the MTU
	pathTooBig               // not: it is too big
)

// choosePath decides by the table of section 10 of the sleeve specification; IPv6 packets that are too big are treated like
// IPv4 packets that must not be cut.
func choosePath(f *overlay.Frame, mtu int, fragTrusted bool) path {
	tooBig := len(f.Data) > mtu+overlay.HeaderLen
	ip, isIPv4 := parseIPv4(f.Data)
	switch {
	case !isIPv4 && tooBig && !f.Flooded && mtu >= minIPv6MTU && isIPv6(f.Data):
		return pathAnswer
	case !isIPv4:
		return pathN
	case ip.dontFragment() && !tooBig:
		return pathD
	case ip.dontFragment() && f.Flooded:
		return pathTooBig
	case ip.dontFragment():
		return pathAnswer
	case fragTrusted:
		return pathN
	case tooBig:
		return pathFragment
	default:
		return pathD
	}
}

// choosePath2 decides for sleeve2, which looks behind VLAN tags and says more often what is too big. It sends in pieces only
// what nobody can be told of.
func choosePath2(f *overlay.Frame, mtu int) path {
	if len(f.Data) <= mtu+overlay.HeaderLen {
		return pathD
	}
	at, v6, isIP := ipOffset(f.Data)
	switch {
	case !isIP, v6 && (f.Flooded || mtu-tagsBefore(at) < minIPv6MTU):
		return pathN
	case v6:
		return pathAnswer
	case f.Data[at+6]&(flagDF>>8) == 0:
		return pathFragment
	case f.Flooded:
		return pathN
	default:
		return pathAnswer
	}
}

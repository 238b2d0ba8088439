package device

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
)

// Rules in a table of iptables consist of what iptables-nft makes of the same rule, down to the length of a comparison. It
// calls a table incompatible, and lists none of it, in which it finds anything else: it does not know nftables' own expression
// for the state of a connection, for one. What it saves and restores is still the same rule then, with the comment as an
// expression.

// filterFamily is all that an overlay with IPv4 needs.
const filterFamily = nftables.TableFamilyIPv4

// register is where all comparisons are made.
const register = 1

// compile returns what the kernel knows a rule as.
func compile(rule string) (list []expr.Any) {
	for words := strings.Split(rule, " "); len(words) > 0; words = words[2:] {
		op := expr.CmpOpEq
		if words[0] == "!" {
			op, words = expr.CmpOpNeq, words[1:]
		}
		switch value := words[1]; words[0] {
		case "-i":
			list = append(list, compare(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, op, append([]byte(value), 0))...)
		case "-o":
			list = append(list, compare(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, op, append([]byte(value), 0))...)
		case "-s":
			list = append(list, inSubnet(12, op, netip.MustParsePrefix(value))...) // where the header of IPv4 has the source
		case "-d":
			list = append(list, inSubnet(16, op, netip.MustParsePrefix(value))...)
		case "--ctstate":
			info := &xt.ConntrackMtinfo3{}
			info.MatchFlags, info.StateMask = uint16(xt.ConntrackState), 1<<1|1<<2 // ESTABLISHED, RELATED
			list = append(list, &expr.Match{Name: "conntrack", Rev: 3, Info: info})
		case "-j":
			list = append(list, &expr.Counter{}, verdict(value))
		}
	}
	return list
}

func verdict(target string) expr.Any {
	switch target {
	case "MASQUERADE":
		return &expr.Masq{}
	case "RETURN":
		return &expr.Verdict{Kind: expr.VerdictReturn}
	default:
		return &expr.Verdict{Kind: expr.VerdictAccept}
	}
}

// compare compares what has been loaded.
func compare(load expr.Any, op expr.CmpOp, value []byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: op, Register: register, Data: value}}
}

// inSubnet compares an address: its first bytes, if the prefix ends with a byte, else what a mask leaves of it.
func inSubnet(offset uint32, op expr.CmpOp, subnet netip.Prefix) []expr.Any {
	address, bits := subnet.Addr().AsSlice(), subnet.Bits()
	size := (bits + 7) / 8
	if bits%8 != 0 {
		size = len(address)
	}
	load := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(size)}
	list := compare(load, op, address[:size])
	if size*8 == bits {
		return list
	}
	return slices.Insert(list, 1, expr.Any(&expr.Bitwise{
		SourceRegister: register, DestRegister: register, Len: uint32(size), Mask: net.CIDRMask(bits, 8*size), Xor: make([]byte, size),
	}))
}

// identity returns what is the same for the same rule: its expressions as the kernel gets them, without what it has counted and
// without comments.
func identity(list []expr.Any) string {
	var all []byte
	for _, e := range list {
		if _, counter := e.(*expr.Counter); counter || comment(e) != "" {
			continue
		}
		b, err := expr.Marshal(byte(filterFamily), e)
		if err != nil {
			return err.Error() // of others, as ours can be marshalled: so it is not the same
		}
		all = append(all, b...)
	}
	return string(all)
}

// identityOf returns the same for a rule that need not be there.
func identityOf(rule string) string { return identity(compile(rule)) }

func identities(rules []*nftables.Rule) (list []string) {
	for _, r := range rules {
		list = append(list, identity(r.Exprs))
	}
	return list
}

// comment returns the text of an expression that is a comment, as iptables writes it, "" for all others.
func comment(e expr.Any) string {
	if m, ok := e.(*expr.Match); ok && m.Name == "comment" {
		if c, ok := m.Info.(*xt.Comment); ok {
			return string(*c)
		}
	}
	return ""
}

// mark returns the comment of those rules that are ours, between those of others, and how it goes with a rule.
func mark(bridge string) (text string, data []byte) {
	text = "overweave " + bridge
	return text, userdata.AppendString(nil, userdata.TypeComment, text)
}

// marked reports whether a rule is ours.
func marked(r *nftables.Rule, bridge string) bool {
	text, data := mark(bridge)
	return bytes.Equal(r.UserData, data) || slices.ContainsFunc(r.Exprs, func(e expr.Any) bool { return comment(e) == text })
}

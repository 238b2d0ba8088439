package device

import (
	"bytes"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Rules in a table of iptables consist of what iptables-nft makes of the same rule, down to the length of a comparison. It
// calls a table incompatible, and lists none of it, in which it finds anything else: it does not know nftables' own expression
// for the state of a connection, for one. What it saves and restores is still the same rule then, with the comment as an
// expression.

// filterFamily is all that an overlay with IPv4 needs.
const filterFamily = nftables.TableFamilyIPv4

// register is where all comparisons are made.
const register = 1

// The states of connections of which a packet is accepted, as bits of the extension conntrack.
const stateRelated, stateEstablished = 1 << 2, 1 << 1

// Where the addresses are in a header of IPv4, and how long they are, in bytes.
const sourceOffset, destinationOffset, addressSize = 12, 16, 4

// expressions returns what the kernel knows a rule as.
func (r filterRule) expressions() (list []expr.Any) {
	for _, c := range r.conditions {
		list = append(list, c.expressions()...)
	}
	list = append(list, &expr.Counter{})
	switch r.action {
	case masquerade:
		return append(list, &expr.Masq{})
	case leave:
		return append(list, &expr.Verdict{Kind: expr.VerdictReturn})
	default:
		return append(list, &expr.Verdict{Kind: expr.VerdictAccept})
	}
}

func (c condition) expressions() []expr.Any {
	switch c.option {
	case entering:
		return c.compare(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, append([]byte(c.device), 0))
	case leaving:
		return c.compare(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, append([]byte(c.device), 0))
	case source:
		return c.inSubnet(sourceOffset)
	case destination:
		return c.inSubnet(destinationOffset)
	default:
		info := &xt.ConntrackMtinfo3{}
		info.MatchFlags, info.StateMask = uint16(xt.ConntrackState), stateRelated|stateEstablished
		return []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: info}}
	}
}

// compare compares what has been loaded.
func (c condition) compare(load expr.Any, value []byte) []expr.Any {
	op := expr.CmpOpEq
	if c.not {
		op = expr.CmpOpNeq
	}
	return []expr.Any{load, &expr.Cmp{Op: op, Register: register, Data: value}}
}

// inSubnet compares an address: its first bytes, if the prefix ends with a byte, else what a mask leaves of it.
func (c condition) inSubnet(offset uint32) []expr.Any {
	address, bits := c.subnet.Addr().AsSlice(), c.subnet.Bits()
	size := addressSize
	if bits%8 == 0 {
		size = bits / 8
	}
	load := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(size)}
	list := c.compare(load, address[:size])
	if bits%8 == 0 {
		return list
	}
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - bits))
	return slices.Insert(list, 1, expr.Any(&expr.Bitwise{
		SourceRegister: register, DestRegister: register, Len: addressSize, Mask: mask, Xor: make([]byte, addressSize),
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

// identities returns the same of rules that are wanted.
func identities(rules []filterRule) (list []string) {
	for _, r := range rules {
		list = append(list, identity(r.expressions()))
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

// mark is the comment of those rules that are ours, between those of others.
func mark(bridge string) string { return "overweave " + bridge }

func markData(bridge string) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, mark(bridge))
}

// marked reports whether a rule is ours.
func marked(r *nftables.Rule, bridge string) bool {
	return bytes.Equal(r.UserData, markData(bridge)) ||
		slices.ContainsFunc(r.Exprs, func(e expr.Any) bool { return comment(e) == mark(bridge) })
}

// isForward reports whether a chain is what iptables-nft knows as FORWARD of the table filter.
func isForward(c *nftables.Chain) bool {
	return c.Table.Family == filterFamily && c.Table.Name == "filter" && c.Name == "FORWARD" && forwards(c)
}

// forwards reports whether all that is forwarded goes through a chain.
func forwards(c *nftables.Chain) bool { return c.Hooknum != nil && *c.Hooknum == unix.NF_INET_FORWARD }

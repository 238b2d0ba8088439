package odp

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// maxTextNesting bounds parentheses within parentheses.
const maxTextNesting = 64

// parser reads the notation. Its text is cut into items at commas, an item into a name and what is in parentheses.
type parser struct {
	Notation
	text string
}

// item is a part of the text, which begins at a byte of it.
type item struct {
	s  string
	at int
}

func (p *parser) fail(it item, reason string) error {
	return &SyntaxError{Text: p.text, Offset: it.at, Reason: reason}
}

// split cuts at the commas that are not in parentheses, braces or brackets. Empty items are left out.
func (p *parser) split(list item) (items []item, err error) {
	depth, start := 0, 0
	for i := 0; i <= len(list.s); i++ {
		switch {
		case i == len(list.s) || list.s[i] == ',' && depth == 0:
			s := list.s[start:i]
			trimmed := strings.TrimLeft(s, " \t\n")
			if at := list.at + start + len(s) - len(trimmed); strings.TrimSpace(trimmed) != "" {
				items = append(items, item{strings.TrimSpace(trimmed), at})
			}
			start = i + 1
		case strings.IndexByte("([{", list.s[i]) >= 0:
			depth++
		case strings.IndexByte(")]}", list.s[i]) >= 0:
			depth--
		}
		if depth < 0 || depth > maxTextNesting {
			return nil, p.fail(item{at: list.at + i}, "parentheses do not match")
		}
	}
	if depth != 0 {
		return nil, p.fail(list, "parentheses do not match")
	}
	return items, nil
}

// call cuts name(args). Without parentheses, ok is false and name is everything.
func (p *parser) call(it item) (name string, args item, ok bool) {
	open := strings.IndexByte(it.s, '(')
	if open < 0 || !strings.HasSuffix(it.s, ")") {
		return it.s, item{}, false
	}
	return it.s[:open], item{it.s[open+1 : len(it.s)-1], it.at + open + 1}, true
}

// assign cuts name=value.
func assign(it item) (name string, value item, ok bool) {
	name, v, ok := strings.Cut(it.s, "=")
	return name, item{v, it.at + len(name) + 1}, ok
}

// masked cuts value/mask. Without a mask, mask.s is "".
func masked(it item) (value, mask item) {
	v, m, ok := strings.Cut(it.s, "/")
	if !ok {
		return it, item{}
	}
	return item{v, it.at}, item{m, it.at + len(v) + 1}
}

// uint reads a number of at most so many bits, decimal or 0x.
func (p *parser) uint(it item, bits int) (uint64, error) {
	v, err := strconv.ParseUint(it.s, 0, bits)
	if err != nil {
		return 0, p.fail(it, "not a number of "+strconv.Itoa(bits)+" bits")
	}
	return v, nil
}

func (p *parser) hex(it item) ([]byte, error) {
	s := strings.ReplaceAll(strings.TrimPrefix(it.s, "0x"), " ", "")
	if len(s)%2 == 1 {
		s = "0" + s
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, p.fail(it, "not hexadecimal digits")
	}
	return b, nil
}

func (p *parser) port(it item) (uint32, error) {
	if v, err := strconv.ParseUint(it.s, 0, 32); err == nil {
		return uint32(v), nil
	}
	if p.PortNumber != nil {
		if v, ok := p.PortNumber(it.s); ok {
			return v, nil
		}
	}
	return 0, p.fail(it, "no such port")
}

// flags reads a|b, a number with or without a mask, or +a-b.
func (p *parser) flags(names []flagName, it item, all uint32) (v, m uint32, err error) {
	if it.s == "" {
		return 0, 0, nil
	}
	if it.s[0] == '+' || it.s[0] == '-' {
		return p.signedFlags(names, it)
	}
	if value, mask := masked(it); value.s != "" && value.s[0] >= '0' && value.s[0] <= '9' {
		n, err := p.uint(value, 32)
		if err != nil || mask.s == "" {
			return uint32(n), all, err
		}
		mm, err := p.uint(mask, 32)
		return uint32(n), uint32(mm), err
	}
	for part := range strings.SplitSeq(it.s, "|") {
		bit, err := p.flag(names, item{part, it.at})
		if err != nil {
			return 0, 0, err
		}
		v |= bit
	}
	return v, all, nil
}

func (p *parser) signedFlags(names []flagName, it item) (v, m uint32, err error) {
	for i := 0; i < len(it.s); {
		end := i + 1
		for end < len(it.s) && it.s[end] != '+' && it.s[end] != '-' {
			end++
		}
		bit, err := p.flag(names, item{it.s[i+1 : end], it.at + i + 1})
		if err != nil {
			return 0, 0, err
		}
		m |= bit
		if it.s[i] == '+' {
			v |= bit
		}
		i = end
	}
	return v, m, nil
}

func (p *parser) flag(names []flagName, it item) (uint32, error) {
	for _, f := range names {
		if f.name == it.s {
			return f.bit, nil
		}
	}
	if strings.HasPrefix(it.s, "0x") {
		v, err := p.uint(it, 32)
		return uint32(v), err
	}
	return 0, p.fail(it, "no such flag")
}

// ParseMatch reads a match in the notation of ovs-dpctl.
func (n Notation) ParseMatch(s string) (Match, error) {
	p := parser{Notation: n, text: s}
	return p.match(item{s: s}, 0)
}

// ParseActions reads an action list in the notation of ovs-dpctl. "drop" is an empty list.
func (n Notation) ParseActions(s string) ([]Action, error) {
	p := parser{Notation: n, text: s}
	return p.actions(item{s: s}, 0)
}

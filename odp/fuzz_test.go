package odp

import (
	"encoding/hex"
	"testing"

	"github.com/overweave/overweave/odp/internal/nla"
)

func seed(f *testing.F, each func(m message)) {
	v := loadVectors(f)
	add := func(s string) {
		if b, err := hex.DecodeString(s); err == nil {
			if m, _, err := nextMessage(b); err == nil {
				each(m)
			}
		}
	}
	for _, m := range v.Netlink.Reference {
		add(m.Message)
	}
	for _, m := range v.Netlink.Own {
		add(m.Message)
	}
	for _, m := range v.Kernel {
		add(m.Message)
	}
}

// Flows decode without panic. What decodes prints, and its actions encode to what decodes to the same.
func FuzzFlow(f *testing.F) {
	seed(f, func(m message) {
		if _, _, attrs, err := m.ovs(); err == nil {
			f.Add(attrs)
		}
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		flow, err := decodeFlow(b)
		if err != nil {
			return
		}
		text := flow.String()
		var e nla.Encoder
		appendActionList(&e, flow.Actions)
		if e.Err != nil {
			return
		}
		again, err := decodeActions(e.B, 0)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := (Notation{}).Actions(again); got != (Notation{}).Actions(flow.Actions) {
			t.Fatalf("%s is then %s", (Notation{}).Actions(flow.Actions), got)
		}
		_ = flow.appendToDiscard()
	})
}

func (f Flow) appendToDiscard() error {
	var e nla.Encoder
	f.appendTo(&e)
	return e.Err
}

// Everything else that a kernel sends decodes without panic.
func FuzzMessage(f *testing.F) {
	v := loadVectors(f)
	for _, m := range v.Kernel {
		b, _ := hex.DecodeString(m.Message)
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		for len(b) > 0 {
			m, rest, err := nextMessage(b)
			if err != nil {
				return
			}
			b = rest
			_, _, _ = m.status()
			var up Upcall
			if up.decode(m) == nil {
				_, _ = up.Key.Match()
				_, _ = up.Actions.Actions()
				_, _, _ = up.EgressTunnel()
			}
			if _, dp, attrs, err := m.ovs(); err == nil {
				_, _ = decodeDatapath(dp, attrs)
				_, _ = decodeVport(dp, attrs)
				_, _ = decodeFamily(attrs)
				var meter MeterInfo
				_ = meter.decode(attrs)
			}
		}
	})
}

// Text is read without panic; what is read, written and read again is the same.
func FuzzNotation(f *testing.F) {
	f.Add("in_port(1),eth(),eth_type(0x0800),ipv4(src=10.0.0.0/255.0.0.0,proto=6,frag=no),tcp(dst=2/0xff00),tcp_flags(+syn-ack)", "set(ipv4(ttl=63)),2")
	f.Add("tunnel(tun_id=0x5,src=10.0.0.1,geneve({class=0x1,type=0x2,len=4,0xa}),flags(-df+key))", "sample(sample=50.0%,actions(2)),ct(commit,nat(src=10.0.0.1:5))")
	f.Add("eth_type(0x8100),vlan(vid=5),encap(eth_type(0x0806))", "check_pkt_len(size=5,gt(1),le(drop)),dec_ttl(le_1(drop)),push_vlan(vid=1,pcp=2)")
	f.Fuzz(func(t *testing.T, match, actions string) {
		n := Notation{Verbose: true}
		if m, err := ParseMatch(match); err == nil {
			once := n.Match(m)
			back, err := ParseMatch(once)
			if err != nil {
				t.Fatalf("%q: %v", once, err)
			}
			if twice := n.Match(back); twice != once {
				t.Fatalf("%q is then %q", once, twice)
			}
		}
		if list, err := ParseActions(actions); err == nil {
			once := n.Actions(list)
			back, err := ParseActions(once)
			if err != nil {
				t.Fatalf("%q: %v", once, err)
			}
			if twice := n.Actions(back); twice != once {
				t.Fatalf("%q is then %q", once, twice)
			}
		}
	})
}

package odp

import (
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp/internal/nla"
)

// recorded is what a kernel sent, by what it was sent about: see TestIntegrationRecord.
func recorded(t testing.TB) map[string][][]byte {
	t.Helper()
	data, err := os.ReadFile("testdata/kernel.json")
	require.NoError(t, err)
	var texts map[string][]string
	require.NoError(t, json.Unmarshal(data, &texts))
	messages := make(map[string][][]byte)
	for about, list := range texts {
		for _, s := range list {
			b, err := hex.DecodeString(s)
			require.NoError(t, err)
			messages[about] = append(messages[about], b)
		}
	}
	return messages
}

// eachSeed calls each for the messages of the vectors and of the record.
func eachSeed(f *testing.F, each func(b []byte)) {
	v := loadVectors(f)
	add := func(s string) {
		if b, err := hex.DecodeString(s); err == nil {
			each(b)
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
	for _, list := range recorded(f) {
		for _, b := range list {
			each(b)
		}
	}
}

// All that a kernel was recorded to send is understood.
func TestRecorded(t *testing.T) {
	decoders := map[string]func(m message, dp Index, attrs []byte) error{
		"family":   func(m message, _ Index, _ []byte) error { _, err := decodeFamily(m.body[4:]); return err },
		"datapath": func(_ message, dp Index, b []byte) error { _, err := decodeDatapath(dp, b); return err },
		"vport":    func(_ message, dp Index, b []byte) error { _, err := decodeVport(dp, b); return err },
		"flow":     func(_ message, _ Index, b []byte) error { _, err := decodeFlow(b); return err },
		"meter":    func(_ message, _ Index, b []byte) error { return new(MeterInfo).decode(b) },
		"limit":    func(_ message, _ Index, b []byte) error { _, err := decodeZoneLimits(b); return err },
		"upcall": func(m message, _ Index, _ []byte) error {
			var u Upcall
			err := u.decode(m)
			if err == nil {
				_, err = u.Key.Match()
			}
			return err
		},
	}
	all := recorded(t)
	require.Len(t, all, len(decoders)+1)
	for about, decode := range decoders {
		require.NotEmpty(t, all[about], about)
		for _, b := range all[about] {
			m, rest, err := nextMessage(b)
			require.NoError(t, err)
			require.Empty(t, rest)
			_, dp, attrs, err := m.ovs()
			require.NoError(t, err)
			require.NoError(t, decode(m, dp, attrs), "%s %x", about, b)
		}
	}
	for _, b := range all["refusal"] {
		m, _, err := nextMessage(b)
		require.NoError(t, err)
		_, _, err = m.status()
		require.Error(t, err)
	}
}

// Flows decode without panic. What decodes prints, matches are read again as they were, and actions encode to what decodes to the same.
func FuzzFlow(f *testing.F) {
	var seeds [][]byte
	eachSeed(f, func(b []byte) {
		if m, _, err := nextMessage(b); err == nil {
			if _, _, attrs, err := m.ovs(); err == nil {
				f.Add(attrs)
			}
		}
	})
	for d := (dice{rand.New(rand.NewPCG(3, 4))}); len(seeds) < 100; {
		var e nla.Encoder
		if d.match().appendTo(&e) == nil {
			seeds = append(seeds, e.B)
		}
	}
	for _, b := range seeds {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		flow, err := decodeFlow(b)
		if err != nil {
			return
		}
		text := flow.String()
		sameInText(t, flow.Match)
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

// sameInText puts a match into words and reads it again: the kernel is sent the same. What cannot be sent, or has masks of keys that
// are not there, is left out.
func sameInText(t *testing.T, m Match) {
	t.Helper()
	var sent nla.Encoder
	if m.appendTo(&sent) != nil || !allThere(m) {
		return
	}
	text := Notation{Verbose: true}.Match(m)
	read, err := ParseMatch(text)
	require.NoError(t, err, text)
	var again nla.Encoder
	require.NoError(t, read.appendTo(&again), text)
	require.Equal(t, hex.EncodeToString(sent.B), hex.EncodeToString(again.B), text)
}

func allThere(m Match) bool {
	for _, f := range m {
		if inner, ok := f.Inner(); f.value == nil || ok && !allThere(inner) {
			return false
		}
	}
	return true
}

func (f Flow) appendToDiscard() error {
	var e nla.Encoder
	f.appendTo(&e)
	return e.Err
}

// Everything else that a kernel sends decodes without panic.
func FuzzMessage(f *testing.F) {
	eachSeed(f, func(b []byte) { f.Add(b) })
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
				var limits MeterLimits
				_ = limits.decode(attrs)
				_, _ = decodeZoneLimits(attrs)
			}
		}
	})
}

// Text is read without panic; what is read, written and read again is the same, as text and as it is sent.
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
			sameInText(t, m)
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
			var sent, again nla.Encoder
			appendChecked(&sent, flowActions, list)
			appendChecked(&again, flowActions, back)
			require.Equal(t, sent.Err == nil, again.Err == nil, once)
			if sent.Err == nil {
				require.Equal(t, hex.EncodeToString(sent.B), hex.EncodeToString(again.B), once)
			}
		}
	})
}

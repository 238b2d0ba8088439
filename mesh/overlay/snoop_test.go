package overlay

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

// linuxFrames are what Linux 6.18 sent for a station that joined and left 239.1.2.3 and ff08::1:205, with the newest version
// of the protocols, and then with older ones.
var linuxFrames = map[string]string{
	"IGMPv3 join":     "01005e0000162269809243f8080046c00028000040000102f9d80a200001e0000016940400002200e8f90000000104000000ef010203",
	"IGMPv3 leave":    "01005e0000162269809243f8080046c00028000040000102f9d80a200001e0000016940400002200e9f90000000103000000ef010203",
	"IGMPv3 snoopers": "01005e000016623c9bc11b0d080046c0002800004000010203fa00000000e0000016940400002200f9930000000104000000e000006a",
	"IGMPv2 join":     "01005e0102032269809243f8080046c00020000040000102e8f20a200001ef010203940400001600f8faef010203",
	"IGMPv2 leave":    "01005e0000022269809243f8080046c00020000040000102f9f40a200001e0000002940400001700f7faef010203",
	"IGMPv1 join":     "01005e0102032269809243f8080046c00020000040000102e8f20a200001ef010203940400001200fcfaef010203",
	"MLDv2 join": "3333000000162269809243f886dd6000000000240001fe80000000000000206980fffe9243f8ff0200000000000000000000000000163a000502" +
		"000001008f008a0b0000000104000000ff080000000000000000000000010205",
	"MLDv2 leave": "3333000000162269809243f886dd6000000000240001fe80000000000000206980fffe9243f8ff0200000000000000000000000000163a000502" +
		"000001008f008b0b0000000103000000ff080000000000000000000000010205",
	"MLDv2 two": "333300000016623c9bc11b0d86dd600000000038000100000000000000000000000000000000ff0200000000000000000000000000163a000502" +
		"000001008f00d53d0000000204000000ff0200000000000000000001ff1a96b004000000ff02000000000000000000000000006a",
	"MLDv1 join": "3333000102052269809243f886dd6000000000200001fe80000000000000206980fffe9243f8ff0800000000000000000000000102053a000502" +
		"000001008300981a00000000ff080000000000000000000000010205",
	"MLDv1 leave": "3333000000022269809243f886dd6000000000200001fe80000000000000206980fffe9243f8ff0200000000000000000000000000023a000502" +
		"000001008400992400000000ff080000000000000000000000010205",
	"neighbour solicitation": "3333ff1a96b0623c9bc11b0d86dd6000000000203aff00000000000000000000000000000000ff0200000000000000000001ff1a96b0" +
		"87001a4000000000fe800000000000009c49d5fffe1a96b00e017c8597fda17b",
	"router solicitation": "3333000000022269809243f886dd6000000000103afffe80000000000000206980fffe9243f8ff0200000000000000000000000000028500" +
		"b1460000000001012269809243f8",
}

func linuxFrame(name string) []byte {
	b, err := hex.DecodeString(linuxFrames[name])
	if err != nil || len(b) == 0 {
		panic(name)
	}
	return b
}

// says lists what a frame says was joined and left.
func says(frame []byte) (out []string) {
	m, ok := parseMembership(frame)
	if !ok {
		return []string{"nothing"}
	}
	m.groups(
		func(a netip.Addr) { out = append(out, "+"+a.String()) },
		func(a netip.Addr) { out = append(out, "-"+a.String()) })
	return out
}

func TestSnoopLinux(t *testing.T) {
	for name, want := range map[string][]string{
		"IGMPv3 join":            {"+239.1.2.3"},
		"IGMPv3 leave":           {"-239.1.2.3"},
		"IGMPv3 snoopers":        {"+224.0.0.106"},
		"IGMPv2 join":            {"+239.1.2.3"},
		"IGMPv2 leave":           {"-239.1.2.3"},
		"IGMPv1 join":            {"+239.1.2.3"},
		"MLDv2 join":             {"+ff08::1:205"},
		"MLDv2 leave":            {"-ff08::1:205"},
		"MLDv2 two":              {"+ff02::1:ff1a:96b0", "+ff02::6a"},
		"MLDv1 join":             {"+ff08::1:205"},
		"MLDv1 leave":            {"-ff08::1:205"},
		"neighbour solicitation": {"nothing"},
		"router solicitation":    {"nothing"},
	} {
		frame := linuxFrame(name)
		require.Equal(t, want, says(frame), name)
		tag := []byte{0x81, 0, 0, 7}
		tagged := bytes.Join([][]byte{frame[:12], tag, frame[12:]}, nil)
		require.Equal(t, want, says(tagged), "%s, tagged", name)
		twice := bytes.Join([][]byte{frame[:12], {0x88, 0xa8, 0, 9}, tag, frame[12:]}, nil)
		require.Equal(t, want, says(twice), "%s, tagged twice", name)
		require.Equal(t, want, says(append(frame, make([]byte, 20)...)), "%s, padded", name)
	}
}

// TestSnoopDamaged: what is cut, or has another bit set anywhere in the message, says nothing.
func TestSnoopDamaged(t *testing.T) {
	for name, message := range map[string]int{"IGMPv3 join": 38, "IGMPv2 leave": 38, "MLDv2 two": 62, "MLDv1 join": 62} {
		frame := linuxFrame(name)
		for n := range frame {
			require.False(t, IsMembership(frame[:n]), "%s, %d bytes", name, n)
		}
		for i := message; i < len(frame); i++ {
			frame[i] ^= 1
			require.False(t, IsMembership(frame), "%s, byte %d", name, i)
			frame[i] ^= 1
		}
		require.True(t, IsMembership(frame))
		frame[0] &^= 1
		require.False(t, IsMembership(frame), "to a single station")
	}
	fragment := linuxFrame("IGMPv2 join")
	fragment[20] = 0x20
	require.False(t, IsMembership(fragment))
}

// report makes a report of IGMPv3 or MLDv2.
func report(v6 bool, records ...[]byte) []byte {
	frame := linuxFrame("IGMPv3 join")[:46]
	if v6 {
		frame = linuxFrame("MLDv2 join")[:70]
	}
	l4 := len(frame) - 8
	binary.BigEndian.PutUint16(frame[l4+6:], uint16(len(records)))
	frame = append(frame, bytes.Join(records, nil)...)
	message := frame[l4:]
	copy(message[2:], []byte{0, 0})
	pseudo := uint64(0)
	if v6 {
		binary.BigEndian.PutUint16(frame[18:], uint16(len(frame)-54))
		pseudo = sum(frame[22:54], uint64(len(message))+protoICMPv6)
	} else {
		binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14))
	}
	binary.BigEndian.PutUint16(message[2:], ^fold(sum(message, pseudo)))
	return frame
}

func record(kind byte, group string, sources, aux int) []byte {
	a := netip.MustParseAddr(group)
	r := append([]byte{kind, byte(aux), 0, byte(sources)}, a.AsSlice()...)
	return append(r, make([]byte, sources*a.BitLen()/8+aux*4)...)
}

func TestSnoopRecords(t *testing.T) {
	for _, c := range []struct {
		kind    byte
		sources int
		want    string
	}{
		{isInclude, 0, ""}, {isInclude, 2, "+"}, {isExclude, 0, "+"}, {isExclude, 3, "+"}, {toInclude, 0, "-"}, {toInclude, 1, "+"},
		{toExclude, 0, "+"}, {toExclude, 1, "+"}, {allowSources, 0, ""}, {allowSources, 1, "+"}, {blockSources, 1, "-"}, {0, 1, ""}, {7, 1, ""},
	} {
		for group, v6 := range map[string]bool{"239.9.9.9": false, "ff05::9": true} {
			var want []string
			if c.want != "" {
				want = []string{c.want + group}
			}
			want = append(want, "+"+group)
			got := says(report(v6, record(c.kind, group, c.sources, 1), record(toExclude, group, 0, 0)))
			require.Equal(t, want, got, "kind %d with %d sources", c.kind, c.sources)
		}
	}
	long := record(toExclude, "239.9.9.9", 2, 0)
	require.Empty(t, says(report(false, long[:len(long)-1])), "its sources are missing")
	require.Empty(t, says(report(true, long[:7])))
}

func TestGroupMAC(t *testing.T) {
	for group, want := range map[string]string{
		"239.1.2.3":          "01:00:5e:01:02:03",
		"239.129.2.3":        "01:00:5e:01:02:03",
		"224.0.1.1":          "01:00:5e:00:01:01",
		"232.1.1.1":          "01:00:5e:01:01:01",
		"ff02::fb":           "33:33:00:00:00:fb",
		"ff02::1:ff1a:96b0":  "33:33:ff:1a:96:b0",
		"ff0e::1234:5678":    "33:33:12:34:56:78",
		"224.0.0.251":        "",
		"239.0.0.1":          "", // shares its address with 224.0.0.1
		"ff02::1":            "",
		"ff02::16":           "",
		"ff01::5":            "",
		"10.0.0.1":           "",
		"fe80::1":            "",
		"0.0.0.0":            "",
		"::":                 "",
		"255.255.255.255":    "",
		"::ffff:224.1.1.1":   "",
		"ff00::ffff:ffff:ff": "33:33:ff:ff:00:ff",
	} {
		m, ok := groupMAC(netip.MustParseAddr(group))
		require.Equal(t, want != "", ok, group)
		if ok {
			require.Equal(t, want, m.String(), group)
			require.True(t, m.IsGroup())
		}
	}
	for _, s := range []string{"ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:00", "01:00:5e:80:00:01", "01:00:5f:01:01:01", "33:34:00:00:00:09", "02:00:5e:01:01:01"} {
		m, err := ParseMAC(s)
		require.NoError(t, err)
		require.False(t, m.snooped(), s)
	}
}

func TestQueries(t *testing.T) {
	self := peer.MustParse("02:00:00:aa:bb:cc")
	q := newQuerier(self)
	require.NotEqual(t, self.String(), q.mac.String(), "which is the bridge's")
	require.False(t, q.mac.IsGroup())
	for group, dst := range map[string]string{
		"0.0.0.0": "01:00:5e:00:00:01", "239.1.2.3": "01:00:5e:01:02:03",
		"::": "33:33:00:00:00:01", "ff05::1:2": "33:33:00:01:00:02",
	} {
		addr := netip.MustParseAddr(group)
		frame := q.specific(addr)
		to, from, _ := addresses(frame)
		require.Equal(t, dst, to.String())
		require.Equal(t, q.mac, from)
		m, ok := parseMembership(frame)
		require.True(t, ok)
		require.True(t, m.query())
		require.Equal(t, !m.v6, m.src.IsUnspecified())
		require.Empty(t, says(frame))
		ip, asked, wait := frame[14:], m.body[4:8], int(m.body[1])*100
		if m.v6 {
			require.Equal(t, "fe80::ffff:200:aa:bbcc", m.src.String())
			require.Equal(t, byte(1), ip[7], "hop limit")
			asked, wait = m.body[8:24], int(binary.BigEndian.Uint16(m.body[4:]))
		} else {
			require.Equal(t, byte(1), ip[8], "time to live")
			require.Equal(t, uint16(0xffff), fold(sum(ip[:24], 0)))
		}
		require.Equal(t, addr.AsSlice(), asked)
		require.Equal(t, map[bool]int{true: 10000, false: 1000}[addr.IsUnspecified()], wait, "milliseconds")
		require.Equal(t, []byte{2, 125, 0, 0}, m.body[len(m.body)-4:], "robustness, interval, sources")
	}
	require.Len(t, q.general(), 2)
}

// FuzzMembership: whatever stations send, nothing breaks, and what is kept is bounded.
func FuzzMembership(f *testing.F) {
	for name := range linuxFrames {
		f.Add(linuxFrame(name))
	}
	f.Add(report(true, record(isInclude, "ff05::9", 2, 1), record(toExclude, "ff05::8", 0, 0)))
	f.Add(newQuerier(here).specific(netip.MustParseAddr("ff05::9")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var g localGroups
		g.start(newQuerier(here), epoch, true)
		m, ok := parseMembership(frame)
		if ok != IsMembership(frame) {
			t.Fatal("of two minds")
		}
		if !ok {
			return
		}
		for range 3 {
			g.snoop(epoch, m)
			g.tend(epoch)
		}
		a, _ := g.announce(epoch)
		if len(g.members) > MaxGroups || len(a.Groups) > len(frame)/4 {
			t.Fatal("too much")
		}
		for _, mac := range a.Groups {
			if !mac.snooped() {
				t.Fatal("no group:", mac)
			}
		}
	})
}

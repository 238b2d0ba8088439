package sleeve_test

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Where each row of sections 6 to 14 of the specification of sleeve is tried. Tests named "rows" are those below, where a peer
// is played by hand on the other side of a real router; "vectors" are in vectors_test.go and decide_test.go.
//
//	 6   1 socket errors                TestSocketErrors, TestRunEnds
//	     2-4 short, stranger, any source  rows/6.2 to rows/6.4
//	     5-7 sealed: short, damaged, again rows/6.5; TestVectorMalformedInput; crypto's replay vectors; TestBlast
//	     8-10 record that ends early, rest, no header  rows/6.8; TestVectorMalformedInput; FuzzDatagram
//	     11 nobody's name                rows/6.11
//	     12-13 special frames, misdirected  rows/7, rows/6.13; TestSpecialFrames
//	     14 ordinary frames              rows/6.14; TestConformance
//	 7   heartbeat, wrong UID            rows/9.1, rows/7; TestVectorHeartbeat
//	     fragmentation test, with and without zeros  rows/7; TestVectorSpecialFrames
//	     MTU tests of any size           rows/7
//	 8   messages, short, unknown        TestVectorControlMessages, TestForgedControl; rows/9.3; wrapping: mesh/overlay
//	 9.1 roles, registering, replacing   rows/9.1; TestHeartbeats, TestNewerLink, TestConformance
//	     first, later heartbeat; address rows/9.1, rows/9.5; TestRoaming
//	     ConnectionEstablished, again    rows/9.3; TestForgedControl
//	     60 s of silence                 TestTimeout, TestNeverEstablished
//	     send errors                     TestSocketErrors
//	 9.2 timers                          TestHeartbeats, TestTimeout, TestVectorPMTUSearch
//	 9.3 on establishment                rows/9.3
//	 9.4 exchange, ports, DF bit         TestHostsPathMTU
//	 9.5 roaming, NAT, multi-homed       rows/9.5, rows/6.4; TestRoaming
//	10   channels by size, DF, trust     rows/10; TestVectorSendPathChoice
//	11   path MTU by ICMP, silent hop    TestHostsPathMTU, TestSearch, TestVectorPMTUSearch
//	     no answers, floor               TestMTUWithoutAnswers, TestSearchBelowFloor, TestSearchAvoidsAmbiguity
//	     shrinking, growing              TestUnderlayMTUChangesOldWire, TestPathShrinks, TestPathChanges, TestBadUnderlay
//	12   ICMP for the sender, limits     rows/12; TestVectorFragmentationNeeded, TestTooBigStaysSilent, TestAnswersAreLimited
//	13   inner fragments                 rows/13; TestVectorInnerFragmentation, TestFragments
//	14   relaying, flooding              rows/6.14; TestThreeHostsInLine, TestSwitches

// TestRows plays a peer by hand on the other side of a router, row by row.
func TestRows(t *testing.T) {
	ordinary := frame(t, 100, true).Data
	for name, test := range map[string]func(t *testing.T, h *hosts){
		"6.2 short; 6.3 strangers": func(t *testing.T, h *hosts) {
			p := newPuppet(t, h, true, nil)
			p.send(p.datagram(0, record(nameB, nameA, ordinary))) // its link is not confirmed yet
			require.Eventually(t, func() bool { return p.overlay.Status().Strangers == 1 }, 10*time.Second, time.Millisecond)
			p.up()
			p.send([]byte("short"))
			p.send(append(peer.Name(0x020000000077).AppendBytes(nil), record(nameB, nameA, ordinary)...))
			require.Empty(t, p.until())
			st := p.overlay.Status()
			require.EqualValues(t, 1, st.Short)
			require.EqualValues(t, 2, st.Strangers)
		},
		"6.4 any source": func(t *testing.T, h *hosts) {
			p := newPuppet(t, h, true, testKey)
			p.up()
			other, err := h.r.ListenPacket("udp4", "10.0.1.2:0")
			require.NoError(t, err)
			defer func() { _ = other.Close() }()
			_, err = other.WriteTo(p.datagram(crypto.DontFragment, record(nameB, nameA, ordinary)), net.UDPAddrFromAddrPort(p.to))
			require.NoError(t, err)
			require.Equal(t, ordinary, (<-p.frames).Data)
			require.Equal(t, puppetAddr, p.link.Status().Remote)
		},
		"6.5 sealed: short, damaged, again": func(t *testing.T, h *hosts) {
			p := newPuppet(t, h, true, testKey)
			p.up()
			good := p.datagram(crypto.DontFragment, record(nameB, nameA, ordinary))
			bad := append([]byte(nil), good...)
			bad[len(bad)-1] ^= 1
			for _, d := range [][]byte{good[:6], good[:13], bad, good, good} {
				p.send(d)
			}
			require.Len(t, p.until(), 1)
			drops := p.link.Status().Drops
			require.EqualValues(t, 3, drops["not_authentic"])
			require.EqualValues(t, 1, drops["replayed"])
			require.Empty(t, p.events)
		},
		"6.8 records that end early; 6.9 rest; 6.10 no header; 6.11 nobody": func(t *testing.T, h *hosts) {
			p := newPuppet(t, h, true, nil)
			p.up()
			good := record(nameB, nameA, ordinary)
			p.send(p.datagram(0, append(append([]byte{}, good...), good[:50]...)))
			p.send(p.datagram(0, append(append([]byte{}, good...), good[:13]...)))
			p.send(p.datagram(0, append(append(record(nameB, nameA, nil), record(nameB, nameA, ordinary[:13])...), good...)))
			p.send(p.datagram(0, append(append(record(0, nameA, ordinary), record(nameB, 0, ordinary)...), good...)))
			require.Len(t, p.until(), 4)
			require.Equal(t, map[string]uint64{"truncated": 2, "short": 2, "nobody": 2}, p.drops())
		},
		"6.13 misdirected; 6.14 ordinary": func(t *testing.T, h *hosts) {
			p := newPuppet(t, h, true, nil)
			p.up()
			heartbeat := append(make([]byte, 14), binary.BigEndian.AppendUint64(nil, puppetUID)...)
			p.send(p.datagram(0, append(record(77, nameA, heartbeat), record(nameB, 77, heartbeat)...)))
			p.send(p.datagram(0, append(record(77, 78, ordinary), record(nameB, nameA, ordinary)...)))
			got := p.until()
			require.Equal(t, []overlay.Frame{{Data: ordinary, Src: 77, Dst: 78}, {Data: ordinary, Src: nameB, Dst: nameA}}, got)
			require.Equal(t, map[string]uint64{"misdirected_control": 2}, p.drops())
			require.Empty(t, p.control)
		},
		"7 special frames": func(t *testing.T, h *hosts) {
			p := newPuppet(t, h, true, nil)
			p.up()
			p.special(binary.BigEndian.AppendUint64(nil, 5)) // another connection's
			p.special(make([]byte, 1000))
			require.Equal(t, []byte{3, 1000 >> 8, 1000 & 255}, <-p.control, "a test of any size")
			p.special(make([]byte, 60000-14))
			require.Equal(t, []byte{3, 59986 >> 8, 59986 & 255}, <-p.control)
			p.special(make([]byte, 60)) // smaller than any MTU
			damaged := make([]byte, 60001-14)
			damaged[50000] = 1
			p.special(damaged)
			p.special(make([]byte, 60001-14)) // in 41 fragments
			require.Equal(t, []byte{2}, <-p.control)
			require.Empty(t, p.until())
			require.Empty(t, p.control)
			require.NotContains(t, p.link.Status().Drops, "misdirected_control")
		},
		"9.1 who dialled begins": func(t *testing.T, h *hosts) {
			p := newPuppet(t, h, true, nil)
			p.silent(50 * time.Millisecond) // prepared
			p.link.Confirm()
			for range 2 {
				records, _ := p.next()
				require.Len(t, records, 1)
				require.Equal(t, binary.BigEndian.AppendUint64(make([]byte, 14), puppetUID), records[0].Data)
				require.Equal(t, nameB, records[0].Dst)
			}
		},
		"9.1 who was dialled waits; 9.5 the address is learned": func(t *testing.T, h *hosts) {
			p := newPuppet(t, h, false, testKey)
			p.link.Confirm()
			p.silent(700 * time.Millisecond)
			p.link.Send([]overlay.Frame{frame(t, 100, true)})
			require.EqualValues(t, 1, p.link.Status().Drops["no_address"])
			p.special(binary.BigEndian.AppendUint64(nil, 5))
			p.until()
			p.silent(50 * time.Millisecond)
			p.up()
			records, ch := p.next()
			require.Len(t, records[0].Data, 22, "a heartbeat at once")
			require.Equal(t, crypto.DontFragment, ch)
			p.special(binary.BigEndian.AppendUint64(nil, puppetUID))
			p.until()
			require.Empty(t, p.control, "ConnectionEstablished once")

			moved, err := h.b.ListenPacket("udp4", "10.0.2.1:4711")
			require.NoError(t, err)
			t.Cleanup(func() { _ = moved.Close() })
			p.conn = moved
			p.until() // frames move nothing
			require.Equal(t, puppetAddr, p.link.Status().Remote)
			p.special(binary.BigEndian.AppendUint64(nil, puppetUID))
			p.until()
			require.Equal(t, moved.LocalAddr().String(), p.link.Status().Remote.String())
		},
		"9.3 once established": func(t *testing.T, h *hosts) {
			p := newPuppet(t, h, true, testKey)
			p.up()
			kinds := map[int]crypto.Channel{}
			for len(kinds) < 2 {
				records, ch := p.next()
				if n := len(records[0].Data); n != 22 {
					kinds[n] = ch
				}
			}
			require.Equal(t, map[int]crypto.Channel{60001: crypto.Fragmentable, 1300 - 86 + 14: crypto.DontFragment}, kinds)
			p.link.Control(3, []byte{1}) // too short
			p.link.Control(9, nil)
			p.link.Control(3, binary.BigEndian.AppendUint16(nil, 1300-86))
			require.Eventually(t, func() bool { return p.link.Status().MTU == 1300-86 }, 10*time.Second, time.Millisecond)
			p.link.Control(1, nil)
			require.Empty(t, p.events)
		},
		"10 channels; 12 ICMP; 13 fragments": testRowsOfSending,
	} {
		t.Run(name, func(t *testing.T) { test(t, newHosts(t)) })
	}
}

func testRowsOfSending(t *testing.T, h *hosts) {
	p := newPuppet(t, h, true, testKey)
	p.up()
	for p.link.Status().MTU != 1300-86 { // which the router tells of
		if data, _ := p.nextNot(1300 - 86 + 14); len(data) == 1300-86+14 {
			p.link.Control(3, binary.BigEndian.AppendUint16(nil, 1300-86))
		}
	}
	other := frame(t, 2000, true)
	other.Data[12] = 0x88
	small := frame(t, 200, true)
	small.Data[12] = 0x88
	for _, c := range []struct {
		what    string
		frame   overlay.Frame
		trusted bool
		want    crypto.Channel
		pieces  int
	}{
		{"fits, must not be cut", frame(t, 1228, true), false, crypto.DontFragment, 1},
		{"fits, may be cut, not trusted", frame(t, 1228, false), false, crypto.DontFragment, 1},
		{"too big, may be cut, not trusted", frame(t, 5000, false), false, crypto.DontFragment, 5},
		{"fits, not IPv4", small, false, crypto.Fragmentable, 1},
		{"too big, not IPv4", other, false, crypto.Fragmentable, 1},
		{"fits, may be cut, trusted", frame(t, 1228, false), true, crypto.Fragmentable, 1},
		{"too big, may be cut, trusted", frame(t, 5000, false), true, crypto.Fragmentable, 1},
		{"fits, must not be cut, trusted", frame(t, 1228, true), true, crypto.DontFragment, 1},
	} {
		if c.trusted {
			p.link.Control(2, nil)
		}
		p.link.Send([]overlay.Frame{c.frame})
		var payload []byte
		for range c.pieces {
			data, ch := p.nextNot(0)
			require.Equal(t, c.want, ch, c.what)
			if c.pieces == 1 {
				require.Equal(t, c.frame.Data, data, c.what)
			}
			require.EqualValues(t, len(payload)/8, binary.BigEndian.Uint16(data[20:])&0x1fff, c.what)
			payload = append(payload, data[34:]...)
		}
		require.Equal(t, c.frame.Data[34:], payload, c.what)
	}
	big := frame(t, 2000, true)
	p.link.Send([]overlay.Frame{big})
	answer := <-p.frames
	require.Equal(t, nameB, answer.Src)
	require.Equal(t, nameA, answer.Dst)
	require.Equal(t, big.Data[6:12], answer.Data[:6])
	require.EqualValues(t, 1300-86, binary.BigEndian.Uint16(answer.Data[40:]))
	big.Flooded = true
	p.link.Send([]overlay.Frame{big})
	require.Empty(t, p.frames)
}

package sleeve_test

import (
	"encoding/binary"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

func TestSearch(t *testing.T) {
	for _, c := range []struct{ known, real, want int }{
		{1500, 0, 1500}, {1500, 1300, 1300}, {9000, 1500, 1500}, {1500, 700, 700}, {600, 0, 600},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			simulate(t, sleevetest.Shape{MTU: c.known, RealMTU: c.real, Delay: time.Millisecond}, func(t *testing.T, p *pair) {
				p.up(t)
				require.Equal(t, mtuFor(p.A, c.want), p.A.Link.Status().MTU)
				require.Equal(t, mtuFor(p.B, c.want), p.B.Link.Status().MTU)
				require.Equal(t, overlay.MTUProbed, p.A.Link.Status().MTUFrom)
				require.Equal(t, time.Millisecond, p.A.Link.Status().RTT, "the way back takes no time in this test")
				full := frame(t, p.A.Link.Status().MTU+14, true)
				p.A.Link.Send([]overlay.Frame{full})
				time.Sleep(time.Second)
				require.Equal(t, []overlay.Frame{full}, arrived(p.B))
			})
		})
	}
}

// TestMTUWithoutAnswers has nothing but the system's word, and the floor once that proves wrong.
func TestMTUWithoutAnswers(t *testing.T) {
	simulate(t, sleevetest.Shape{MTU: 1500, RealMTU: 600}, func(t *testing.T, p *pair) {
		p.A.Confirm()
		p.B.Confirm()
		for _, s := range []*overlaytest.Side{p.A, p.B} {
			require.Equal(t, overlay.Established, (<-s.Events).Kind)
		}
		synctest.Wait()
		st := p.A.Link.Status()
		require.Equal(t, mtuFor(p.A, 1500), st.MTU)
		require.Equal(t, overlay.MTUFromSystem, st.MTUFrom)
		require.Zero(t, st.RTT)
		time.Sleep(time.Minute)
		st = p.A.Link.Status()
		require.Equal(t, 552, st.MTU)
		require.Equal(t, overlay.MTUAssumed, st.MTUFrom)
	})
}

// TestPathShrinks lowers the path MTU of a link that is in use: what is too big is lost once, then the new MTU is known.
func TestPathShrinks(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.up(t)
		p.network.SetShape(sleevetest.Shape{MTU: 1400})
		full := frame(t, p.A.Link.Status().MTU+14, true)
		p.A.Link.Send([]overlay.Frame{full})
		require.Empty(t, arrived(p.B))
		require.EqualValues(t, 1, p.A.Link.Status().Drops["path_too_small"])
		time.Sleep(time.Second)
		require.Equal(t, mtuFor(p.A, 1400), p.A.Link.Status().MTU)
		p.A.Link.Send([]overlay.Frame{full})
		answer := arrived(p.A)
		require.Len(t, answer, 1, "the sender is told")
		require.Equal(t, nameB, answer[0].Src)
		require.Equal(t, nameA, answer[0].Dst)
		require.EqualValues(t, mtuFor(p.A, 1400), binary.BigEndian.Uint16(answer[0].Data[40:]))
		require.EqualValues(t, 1, p.A.Link.Status().Drops["too_big_answered"])
	})
}

// TestPathChanges lets the path shrink without the system knowing of it, and grow beyond what it was.
func TestPathChanges(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.up(t)
		requirePassing := func(pmtu int) {
			t.Helper()
			require.Equal(t, mtuFor(p.A, pmtu), p.A.Link.Status().MTU)
			full := frame(t, p.A.Link.Status().MTU+14, true)
			p.A.Link.Send([]overlay.Frame{full})
			require.Equal(t, []overlay.Frame{full}, arrived(p.B))
		}
		requirePassing(1500)
		p.network.SetShape(sleevetest.Shape{RealMTU: 1300, Delay: time.Millisecond}) // a black hole
		time.Sleep(2 * time.Minute)
		p.network.SetShape(sleevetest.Shape{RealMTU: 1300})
		requirePassing(1300)

		p.network.SetShape(sleevetest.Shape{MTU: 9000})
		time.Sleep(11 * time.Minute)
		requirePassing(9000)
		time.Sleep(10 * time.Minute)
		requirePassing(9000)
		require.Empty(t, p.A.Events)
	})
}

func TestAnswersAreLimited(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.up(t)
		big := make([]overlay.Frame, 1000)
		for i := range big {
			big[i] = frame(t, 2000, true)
		}
		p.A.Link.Send(big)
		require.Len(t, arrived(p.A), 50)
		drops := p.A.Link.Status().Drops
		require.EqualValues(t, 50, drops["too_big_answered"])
		require.EqualValues(t, 950, drops["too_big"])
		time.Sleep(time.Second)
		p.A.Link.Send(big[:1])
		require.Len(t, arrived(p.A), 1)
		big[0].Flooded = true
		p.A.Link.Send(big[:1])
		require.Empty(t, arrived(p.A), "no answer to a flood")
	})
}

func TestFragments(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.up(t)
		big := frame(t, 5000, false)
		p.A.Link.Send([]overlay.Frame{big})
		require.Equal(t, []overlay.Frame{big}, arrived(p.B), "the network takes it apart and puts it together")
	})
	simulate(t, sleevetest.Shape{DropFragments: true}, func(t *testing.T, p *pair) {
		p.up(t)
		big := frame(t, 5000, false)
		p.A.Link.Send([]overlay.Frame{big})
		pieces := arrived(p.B)
		require.Len(t, pieces, 4)
		require.Equal(t, big.Data[34:], reassemble(t, pieces))
	})
}

// reassemble returns the payload of a packet that arrived in pieces.
func reassemble(t *testing.T, pieces []overlay.Frame) []byte {
	t.Helper()
	var whole []byte
	for i, piece := range pieces {
		packet := gopacket.NewPacket(piece.Data, layers.LayerTypeEthernet, gopacket.Default)
		ip := packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		require.EqualValues(t, len(whole), ip.FragOffset*8)
		require.Equal(t, i < len(pieces)-1, ip.Flags&layers.IPv4MoreFragments != 0)
		whole = append(whole, ip.Payload...)
	}
	return whole
}

package sleeve_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

var testKey = &[32]byte{1, 2, 3}

// pair is two peers over a network in memory, and a connection between them that A dialled.
type pair struct {
	network *sleevetest.Network
	a, b    overlaytest.End
	connB   *sleevetest.Conn
	*overlaytest.Conn
}

// simulate runs a test in a bubble with a pair whose links are prepared, in the clear and sealed.
func simulate(t *testing.T, shape sleevetest.Shape, test func(t *testing.T, p *pair)) {
	t.Helper()
	for name, key := range map[string]*[32]byte{"clear": nil, "sealed": testKey} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := sleevetest.New(7)
				network.SetShape(shape)
				connA, err := network.Listen(addrA)
				require.NoError(t, err)
				connB, err := network.Listen(addrB)
				require.NoError(t, err)
				p := &pair{network: network, connB: connB, a: newEnd(t, nameA, addrA, connA), b: newEnd(t, nameB, addrB, connB)}
				p.Conn = overlaytest.Connect(p.a, p.b, 0x1234, key)
				t.Cleanup(p.Close)
				require.NoError(t, p.A.Prepare())
				require.NoError(t, p.B.Prepare())
				test(t, p)
			})
		})
	}
}

// up confirms both ends and lets them find each other.
func (p *pair) up(t *testing.T) {
	t.Helper()
	p.A.Confirm()
	p.B.Confirm()
	for _, s := range []*overlaytest.Side{p.A, p.B} {
		require.Equal(t, overlay.Event{Kind: overlay.Established}, <-s.Events)
	}
	time.Sleep(time.Minute) // of the bubble: the search for the MTU ends
	synctest.Wait()
}

// mtuFor is the overlay's MTU on a path.
func mtuFor(s *overlaytest.Side, pmtu int) int {
	if s.Params.Key != nil {
		return pmtu - 86
	}
	return pmtu - 62
}

// frame makes a frame of an IPv4 packet with the don't-fragment bit, or without.
func frame(t testing.TB, length int, df bool) overlay.Frame {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: layers.IPProtocolUDP, SrcIP: []byte{10, 32, 0, 1}, DstIP: []byte{10, 40, 0, 2}}
	if df {
		ip.Flags = layers.IPv4DontFragment
	}
	payload := make([]byte, length-14-20)
	for i := range payload {
		payload[i] = byte(i ^ i>>8)
	}
	buf := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4},
		ip, gopacket.Payload(payload)))
	return overlay.Frame{Data: buf.Bytes(), Src: nameA, Dst: nameB}
}

// arrived returns the frames that have arrived at a side.
func arrived(s *overlaytest.Side) (frames []overlay.Frame) {
	synctest.Wait()
	for {
		select {
		case f := <-s.Frames:
			frames = append(frames, f)
		default:
			return frames
		}
	}
}

func TestHeartbeats(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.A.Confirm() // B does not answer yet: it is silent until it is confirmed
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		require.Equal(t, 21, p.a.Datagrams(), "at once and every 500 ms")
		require.Zero(t, p.b.Datagrams())
		p.B.Confirm()
		require.Equal(t, overlay.Established, (<-p.A.Events).Kind)
		require.Equal(t, overlay.Established, (<-p.B.Events).Kind)
		time.Sleep(time.Minute)
		synctest.Wait()
		a, b := p.a.Datagrams(), p.b.Datagrams()
		time.Sleep(200 * time.Second)
		synctest.Wait()
		require.Equal(t, a+20+3, p.a.Datagrams(), "every 10 s, and a test of the path each minute")
		require.Equal(t, b+20+3, p.b.Datagrams())
		a = p.a.Datagrams()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Equal(t, a+60+10+2, p.a.Datagrams(), "and a test of fragments every 5 minutes")
		require.Equal(t, addrA, p.B.Link.Status().Remote, "learned from the datagrams")
	})
}

func TestTimeout(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.up(t)
		p.network.SetShape(sleevetest.Shape{Loss: 1})
		begin := time.Now()
		for _, s := range []*overlaytest.Side{p.A, p.B} {
			e := <-s.Events
			require.Equal(t, overlay.Failed, e.Kind)
			want := fmt.Sprintf("no heartbeat from %s (UDP) for 1m0s", s.Link.Status().Remote)
			require.ErrorContains(t, e.Err, want)
			require.Contains(t, s.Link.Status().Reason, want)
		}
		require.InDelta(t, 60, time.Since(begin).Seconds(), 10)
		time.Sleep(time.Hour)
		require.Empty(t, p.A.Events, "nothing after Failed")
	})
}

func TestNeverEstablished(t *testing.T) {
	simulate(t, sleevetest.Shape{Loss: 1}, func(t *testing.T, p *pair) {
		p.A.Confirm()
		p.B.Confirm()
		begin := time.Now()
		require.Equal(t, overlay.Failed, (<-p.B.Events).Kind)
		require.Equal(t, time.Minute, time.Since(begin))
		require.Zero(t, p.b.Datagrams(), "it does not know where to")
		p.B.Link.Send([]overlay.Frame{frame(t, 100, true)})
		require.EqualValues(t, 1, p.B.Link.Status().Drops["no_address"])
	})
}

// TestNewerLink has a second connection take the place of the first, before that is closed.
func TestNewerLink(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.up(t)
		var key *[32]byte
		if p.A.Params.Key != nil {
			key = &[32]byte{9}
		}
		newer := overlaytest.Connect(p.a, p.b, 0x5678, key)
		t.Cleanup(newer.Close)
		require.NoError(t, newer.Up())
		require.Equal(t, overlay.Established, (<-newer.A.Events).Kind)
		require.Equal(t, overlay.Established, (<-newer.B.Events).Kind)
		requireNewer := func() {
			t.Helper()
			newer.A.Link.Send([]overlay.Frame{frame(t, 100, true)})
			require.Len(t, arrived(newer.B), 1)
			require.Empty(t, arrived(p.B))
		}
		requireNewer()
		p.A.Link.Send([]overlay.Frame{frame(t, 100, true)})
		require.Empty(t, arrived(p.B), "datagrams are for the newer one")
		if key != nil {
			require.Empty(t, arrived(newer.B))
			require.NotZero(t, newer.B.Link.Status().Drops["not_authentic"])
		}
		arrived(newer.B)
		p.Close()
		requireNewer()
	})
}

func TestRoaming(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.up(t)
		moved := netip.MustParseAddrPort("192.0.2.9:4711")
		p.connB.SetOutside(moved)
		p.B.Link.Send([]overlay.Frame{frame(t, 100, true)})
		require.Len(t, arrived(p.A), 1, "data is taken from anywhere")
		require.Equal(t, addrB, p.A.Link.Status().Remote, "but moves nothing")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		require.Equal(t, moved, p.A.Link.Status().Remote, "a heartbeat does")
		p.A.Link.Send([]overlay.Frame{frame(t, 100, true)})
		require.Len(t, arrived(p.B), 1)
	})
}

// TestBadNetwork sends over a network that loses, repeats and reorders: what arrives is what was sent, and when sealed, no
// more than once.
func TestBadNetwork(t *testing.T) {
	shape := sleevetest.Shape{Loss: 0.2, Duplicate: 0.2, Delay: time.Millisecond, Jitter: 50 * time.Millisecond}
	simulate(t, shape, func(t *testing.T, p *pair) {
		p.up(t)
		const n = 1000
		for i := range n {
			f := frame(t, 200, true)
			binary.BigEndian.PutUint32(f.Data[34:], uint32(i))
			p.A.Link.Send([]overlay.Frame{f})
		}
		time.Sleep(time.Second)
		seen := map[uint32]int{}
		for _, f := range arrived(p.B) {
			id := binary.BigEndian.Uint32(f.Data[34:])
			want := frame(t, 200, true)
			binary.BigEndian.PutUint32(want.Data[34:], id)
			require.Equal(t, want, f)
			seen[id]++
		}
		require.InDelta(t, 0.8*n, len(seen), 0.05*n)
		if p.A.Params.Key != nil {
			for id, times := range seen {
				require.Equal(t, 1, times, id)
			}
			require.NotZero(t, p.B.Link.Status().Drops["replayed"])
		}
		time.Sleep(10 * time.Minute)
		require.Empty(t, p.A.Events, "the link lives on")
	})
}

// failing is a socket that refuses some datagrams.
type failing struct {
	sleeve.Conn
	err   error
	every int
	n     int
}

func (f *failing) WriteBatch(msgs []sleeve.Message) (int, error) {
	for i := range msgs {
		if f.n++; f.n%f.every == 0 {
			return i, f.err
		}
		if _, err := f.Conn.WriteBatch(msgs[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(msgs), nil
}

// TestSocketErrors sees that errors of the socket lose datagrams and nothing else.
func TestSocketErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := sleevetest.New(1)
		conn, err := network.Listen(addrA)
		require.NoError(t, err)
		bad := &failing{Conn: conn, err: syscall.ENOBUFS, every: 4}
		a, b := newEnd(t, nameA, addrA, bad), memoryEnd(t, network, nameB, addrB)
		p := &pair{a: a, b: b, Conn: overlaytest.Connect(a, b, 1, nil)}
		t.Cleanup(p.Close)
		require.NoError(t, p.A.Prepare())
		require.NoError(t, p.B.Prepare())
		p.up(t)
		frames := make([]overlay.Frame, 40)
		for i := range frames {
			frames[i] = frame(t, 1000, true)
		}
		p.A.Link.Send(frames)
		require.Len(t, arrived(p.B), 30, "the others arrive")
		require.GreaterOrEqual(t, p.A.Link.Status().Drops["socket"], uint64(10))
		time.Sleep(time.Hour)
		require.Empty(t, p.A.Events, "the link lives on")
	})
}

// TestForgedControl sees that control messages that were not asked for change nothing.
func TestForgedControl(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.A.Link.Control(1, nil) // before Confirm
		p.up(t)
		before, status := p.a.Datagrams(), p.A.Link.Status()
		for _, payload := range [][]byte{nil, {0}, {0, 0}, {1, 0}, {0xff, 0xff}, bytes.Repeat([]byte{5}, 100)} {
			for tag := range 256 {
				p.A.Link.Control(byte(tag), payload)
			}
		}
		synctest.Wait()
		require.Equal(t, before, p.a.Datagrams(), "nothing is sent")
		require.Equal(t, status, p.A.Link.Status())
		require.Empty(t, p.A.Events)
	})
}

// TestSpecialFrames sends special frames that are not for the link.
func TestSpecialFrames(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.up(t)
		special := make([]byte, 200)
		p.A.Link.Send([]overlay.Frame{{Data: special, Src: 77, Dst: nameB}, {Data: special, Src: nameA, Dst: 77}, {Data: special, Src: 0, Dst: nameB}})
		require.Empty(t, arrived(p.B))
		drops := p.B.Link.Status().Drops
		require.EqualValues(t, 2, drops["misdirected_control"])
		require.EqualValues(t, 1, drops["nobody"])
	})
}

func TestStrangers(t *testing.T) {
	simulate(t, sleevetest.Shape{}, func(t *testing.T, p *pair) {
		p.up(t)
		other, err := p.network.Listen(netip.MustParseAddrPort("10.0.0.3:1"))
		require.NoError(t, err)
		for _, data := range []string{"", "short", "stranger with frames"} {
			_, err = other.WriteBatch([]sleeve.Message{{Data: []byte(data), Remote: addrA}})
			require.NoError(t, err)
		}
		synctest.Wait()
		status := p.a.Overlay.(*sleeve.Overlay).Status()
		require.Equal(t, sleeve.Status{Local: addrA.String(), Links: 1, Short: 2, Strangers: 1}, status)
	})
}

func TestPrepareRefuses(t *testing.T) {
	conn, err := sleevetest.New(1).Listen(addrA)
	require.NoError(t, err)
	o := start(t, nameA, conn)
	good := overlay.Params{
		Self: nameA, Remote: nameB, RemoteAddr: addrB, Outbound: true,
		SendControl: func(byte, []byte) error { return nil }, Report: func(overlay.Event) {}, Receive: func([]overlay.Frame) {},
	}
	_, err = o.Prepare(good)
	require.NoError(t, err)
	for name, change := range map[string]func(p *overlay.Params){
		"IPv6 over an IPv4 socket": func(p *overlay.Params) { p.RemoteAddr = netip.MustParseAddrPort("[fd00::1]:6783") },
		"no address":               func(p *overlay.Params) { p.RemoteAddr = netip.AddrPort{} },
		"no port":                  func(p *overlay.Params) { p.RemoteAddr = netip.MustParseAddrPort("10.0.0.2:0") },
	} {
		p := good
		change(&p)
		_, err := o.Prepare(p)
		require.ErrorIs(t, err, sleeve.ErrNoAddress, name)
	}
	for name, change := range map[string]func(p *overlay.Params){
		"to itself": func(p *overlay.Params) { p.Remote = nameA }, "to nobody": func(p *overlay.Params) { p.Remote = 0 },
		"of another": func(p *overlay.Params) { p.Self = nameB }, "without functions": func(p *overlay.Params) { p.Report = nil },
	} {
		p := good
		change(&p)
		_, err := o.Prepare(p)
		require.Error(t, err, name)
	}
	_, err = sleeve.New(sleeve.Config{Socket: conn})
	require.Error(t, err, "no name")
	_, err = sleeve.New(sleeve.Config{Self: nameA})
	require.Error(t, err, "no socket")
}

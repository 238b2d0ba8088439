package sleeve_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/sleeve"
)

// puppet is a peer that is played by hand, and a link to it with what came out of that.
type puppet struct {
	t       *testing.T
	overlay *sleeve.Overlay
	link    overlay.Link
	conn    net.PacketConn
	to      netip.AddrPort
	frames  chan overlay.Frame
	control chan []byte // tag and payload
	events  chan overlay.Event
	sealer  *crypto.DatagramSealer
	opener  *crypto.DatagramOpener
	marks   byte
}

const puppetUID = 0x0123456789abcdef

var puppetAddr = netip.MustParseAddrPort("10.0.2.1:6783")

// newPuppet prepares a link at A, which dialled or was dialled by the puppet B.
func newPuppet(t *testing.T, h *hosts, dialled bool, key *[32]byte) *puppet {
	t.Helper()
	p := &puppet{
		t: t, to: netip.MustParseAddrPort("10.0.1.1:6783"), frames: make(chan overlay.Frame, 1000),
		control: make(chan []byte, 1000), events: make(chan overlay.Event, 10),
	}
	var socket *sleeve.Socket
	require.NoError(t, h.a.Do(func() (err error) {
		socket, err = sleeve.Listen(netip.AddrPortFrom(netip.Addr{}, p.to.Port()))
		return err
	}))
	p.overlay = start(t, nameA, socket)
	var err error
	p.conn, err = h.b.ListenPacket("udp4", puppetAddr.String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.conn.Close() })
	if key != nil {
		p.sealer, p.opener = crypto.NewDatagramSealer(*key, !dialled), crypto.NewDatagramOpener(*key, dialled)
	}
	p.link, err = p.overlay.Prepare(overlay.Params{
		Self: nameA, Remote: nameB, Local: p.to, RemoteAddr: puppetAddr, Outbound: dialled, ConnUID: puppetUID, Key: key,
		SendControl: func(tag byte, payload []byte) error { p.control <- append([]byte{tag}, payload...); return nil },
		Report:      func(e overlay.Event) { p.events <- e },
		Receive: func(frames []overlay.Frame) {
			for _, f := range frames {
				f.Data = append([]byte(nil), f.Data...)
				p.frames <- f
			}
		},
	})
	require.NoError(t, err)
	t.Cleanup(p.link.Close)
	return p
}

// record is one with its header.
func record(src, dst peer.Name, data []byte) []byte {
	b := dst.AppendBytes(src.AppendBytes(nil))
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// datagram makes a datagram of B.
func (p *puppet) datagram(ch crypto.Channel, body []byte) []byte {
	b := nameB.AppendBytes(nil)
	if p.sealer != nil {
		return p.sealer.Seal(b, ch, body)
	}
	return append(b, body...)
}

func (p *puppet) send(data []byte) {
	p.t.Helper()
	_, err := p.conn.WriteTo(data, net.UDPAddrFromAddrPort(p.to))
	require.NoError(p.t, err)
}

// special sends a special frame with the given content.
func (p *puppet) special(content []byte) {
	p.t.Helper()
	p.send(p.datagram(crypto.DontFragment, record(nameB, nameA, append(make([]byte, 14), content...))))
}

// until sends a frame that tells itself apart and returns those that arrived before it.
func (p *puppet) until() (frames []overlay.Frame) {
	p.t.Helper()
	p.marks++
	mark := append(make([]byte, 12), 0x88, 0xb5, 'm', p.marks)
	p.send(p.datagram(crypto.DontFragment, record(nameB, nameA, mark)))
	for {
		select {
		case f := <-p.frames:
			if string(f.Data) == string(mark) {
				return frames
			}
			frames = append(frames, f)
		case <-time.After(10 * time.Second):
			require.FailNow(p.t, "nothing arrives", "%+v %+v", p.link.Status(), p.overlay.Status())
		}
	}
}

// drops returns what the link dropped, but for its own tests of the path, which the router answers in its own time.
func (p *puppet) drops() map[string]uint64 {
	drops := p.link.Status().Drops
	delete(drops, "path_too_small")
	return drops
}

// next returns the records of the next datagram of A, and its channel.
func (p *puppet) next() (records []overlay.Frame, ch crypto.Channel) {
	p.t.Helper()
	b := make([]byte, 1<<16)
	require.NoError(p.t, p.conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, from, err := p.conn.ReadFrom(b)
	require.NoError(p.t, err)
	require.Equal(p.t, p.to.String(), from.String())
	require.Equal(p.t, nameA.AppendBytes(nil), b[:6])
	body := b[6:n]
	if p.opener != nil {
		body, ch, err = p.opener.Open(nil, body)
		require.NoError(p.t, err)
	}
	for len(body) >= 14 {
		size := int(binary.BigEndian.Uint16(body[12:]))
		f := overlay.Frame{Src: readPeer(body), Dst: readPeer(body[6:]), Data: body[14 : 14+size]}
		records, body = append(records, f), body[14+size:]
	}
	require.Empty(p.t, body)
	return records, ch
}

func readPeer(b []byte) peer.Name {
	return peer.Name(binary.BigEndian.Uint16(b))<<32 | peer.Name(binary.BigEndian.Uint32(b[2:]))
}

// nextNot returns the first record of the next datagram of A that is no special frame, or a special one of the given length.
func (p *puppet) nextNot(special int) (data []byte, ch crypto.Channel) {
	p.t.Helper()
	for {
		records, ch := p.next()
		data := records[0].Data
		if isZero := string(data[:14]) == string(make([]byte, 14)); !isZero || len(data) == special {
			return data, ch
		}
	}
}

func (p *puppet) silent(d time.Duration) {
	p.t.Helper()
	require.NoError(p.t, p.conn.SetReadDeadline(time.Now().Add(d)))
	_, _, err := p.conn.ReadFrom(make([]byte, 1<<16))
	require.True(p.t, errors.Is(err, os.ErrDeadlineExceeded), "A should be silent: %v", err)
}

// up lets A see a heartbeat and hear that its own arrived.
func (p *puppet) up() {
	p.t.Helper()
	p.link.Confirm()
	p.special(binary.BigEndian.AppendUint64(nil, puppetUID))
	require.Equal(p.t, []byte{1}, <-p.control, "ConnectionEstablished")
	p.link.Control(1, nil)
	require.Equal(p.t, overlay.Established, (<-p.events).Kind)
}

package overlay_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
)

// super makes a super-frame of TCP over IPv4 between two stations.
func super(dst, src string, payload, size int) overlay.Frame {
	f := ethernet(dst, src)[:14]
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	ip := []byte{0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 60, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	binary.BigEndian.PutUint16(ip[2:], uint16(40+payload))
	tcp := []byte{0, 1, 0, 2, 0xff, 0xff, 0xff, 0, 0, 0, 0, 5, 0x50, 0x99, 1, 0, 0, 0, 0, 0} // CWR, ACK, PSH, FIN
	f = append(append(f, ip...), tcp...)
	for i := range payload {
		f = append(f, byte(i*3)^byte(i>>8))
	}
	return overlay.Frame{Data: f, Src: peerB, Dst: peerA, Segments: overlay.Segments{Protocol: overlay.TCP4, Size: uint16(size), Transport: 34}}
}

func cut(t testing.TB, f overlay.Frame) (out [][]byte) {
	s, err := overlay.NewSegmenter(f.Data, f.Segments)
	require.NoError(t, err)
	for n := s.NextLen(); n > 0; n = s.NextLen() {
		b := make([]byte, n)
		s.Next(b)
		out = append(out, b)
	}
	return out
}

// onesSum adds up bytes as an Internet checksum does, one word after the other.
func onesSum(b []byte) (s uint32) {
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i%2))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return s
}

func TestSegmenter(t *testing.T) {
	f := super("02:00:00:00:00:01", "02:00:00:00:00:02", 5000, 1448)
	all := cut(t, f)
	require.Len(t, all, 4)
	for i, b := range all {
		ip, tcp := b[14:34], b[34:]
		require.Equal(t, len(b)-14, int(binary.BigEndian.Uint16(ip[2:])))
		require.Equal(t, uint16(0xffff+i), binary.BigEndian.Uint16(ip[4:]))
		require.EqualValues(t, 0xffff, onesSum(ip))
		pseudo := append(append([]byte{}, ip[12:20]...), 0, 6, byte(len(tcp)>>8), byte(len(tcp)))
		require.EqualValues(t, 0xffff, onesSum(append(pseudo, tcp...)))
		seq, start := uint32(0xffffff00), i*1448
		require.Equal(t, seq+uint32(start), binary.BigEndian.Uint32(tcp[4:]))
		require.Equal(t, []byte{0x90, 0x10, 0x10, 0x19}[i], tcp[13], "flags")
		require.Equal(t, f.Data[54+start:min(54+start+1448, len(f.Data))], tcp[20:])
	}
}

// TestRestore puts runs of segments together: each is cut into what the whole is cut into there.
func TestRestore(t *testing.T) {
	f := super("02:00:00:00:00:01", "02:00:00:00:00:02", 14000, 1000)
	want := cut(t, f)
	for first := range want {
		for end := first + 1; end <= len(want); end++ {
			run := append(append([]byte{}, f.Data[:54]...), f.Data[54+first*1000:min(54+end*1000, len(f.Data))]...)
			s, err := overlay.Restore(run, f.Segments, overlay.Part{First: first, Last: end == len(want)})
			require.NoError(t, err)
			require.Equal(t, end-first > 1, s.Protocol != 0)
			require.Equal(t, want[first:end], cut(t, overlay.Frame{Data: run, Segments: s}))
		}
	}
	_, err := overlay.Restore(f.Data, overlay.Segments{}, overlay.Part{})
	require.ErrorIs(t, err, overlay.ErrSegments)
	_, err = overlay.Restore(f.Data, f.Segments, overlay.Part{First: 70})
	require.ErrorIs(t, err, overlay.ErrSegments)
}

// segmented is a stub whose links take super-frames.
type segmented struct{ *stub }

type segmentedLink struct{ *stubLink }

func (s segmented) Prepare(p overlay.Params) (overlay.Link, error) {
	l, err := s.stub.Prepare(p)
	return segmentedLink{l.(*stubLink)}, err
}

func (segmentedLink) TakesSegments() bool { return true }

// segmentedPort is a port that gives one super-frame, and keeps what it is given.
type segmentedPort struct {
	*overlaytest.Port
	give    chan overlay.Frame
	written chan overlay.Frame
}

func (p *segmentedPort) ReadFrames(frames []overlay.Frame) (int, error) {
	f, ok := <-p.give
	if !ok {
		return 0, net.ErrClosed
	}
	f.Data = frames[0].Data[:copy(frames[0].Data, f.Data)]
	frames[0] = f
	return 1, nil
}

func (p *segmentedPort) WriteFrames(frames []overlay.Frame) error {
	for _, f := range frames {
		f.Data = append([]byte(nil), f.Data...)
		p.written <- f
	}
	return nil
}

func (p *segmentedPort) Close() error {
	close(p.give)
	return nil
}

// TestSuperFrames sees that super-frames reach whom they may, and others get segments.
func TestSuperFrames(t *testing.T) {
	port := &segmentedPort{overlaytest.NewPort("p"), make(chan overlay.Frame), make(chan overlay.Frame, 10)}
	fast, slow := segmented{&stub{name: "fast"}}, &stub{name: "slow"}
	sw := newSwitch(t, port, fast, slow)
	sw.Forwarder().SetRoutes(starRoutes())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sw.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(t, <-done)
	}()
	defer link(t, sw, peerB, "fast").Close()
	defer link(t, sw, peerC, "slow").Close()

	f := super(all, macA, 5000, 1448)
	port.give <- overlay.Frame{Data: f.Data, Segments: f.Segments}
	port.give <- overlay.Frame{} // the one before has been dealt with
	whole, pieces := fast.last().take(), slow.last().take()
	require.Len(t, whole, 1)
	require.Equal(t, f.Segments, whole[0].Segments)
	require.Equal(t, f.Data, whole[0].Data)
	var data [][]byte
	for _, p := range pieces {
		require.Zero(t, p.Segments)
		data = append(data, p.Data)
	}
	require.Equal(t, cut(t, f), data)

	in := super(macA, macB, 5000, 1448)
	in.Hops = 3
	fast.last().Receive([]overlay.Frame{in})
	got := <-port.written
	require.Equal(t, in.Data, got.Data)
	require.Equal(t, in.Segments, got.Segments)

	plain := overlaytest.NewPort("plain")
	carrier := &stub{name: "x"}
	other := newSwitch(t, plain, carrier)
	other.Forwarder().SetRoutes(starRoutes())
	defer link(t, other, peerB, "x").Close()
	carrier.last().Receive([]overlay.Frame{in})
	for _, want := range cut(t, in) {
		require.Equal(t, want, <-plain.Written())
	}
}

func FuzzSegmenter(f *testing.F) {
	for _, size := range []int{1, 100, 1448} {
		s := super("02:00:00:00:00:01", "02:00:00:00:00:02", 3000, size)
		f.Add(s.Data, byte(1), uint16(size), uint16(34), uint16(1), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, protocol byte, size, transport, first uint16, last bool) {
		if len(data) > 4096 {
			return
		}
		segments := overlay.Segments{Protocol: overlay.Protocol(protocol), Size: size, Transport: transport}
		s, err := overlay.NewSegmenter(data, segments)
		if err != nil {
			return
		}
		total := 0
		for n := s.NextLen(); n > 0; n = s.NextLen() {
			s.Next(make([]byte, n))
			if total += n - s.HeaderLen(); n < s.HeaderLen() || total > len(data) {
				t.Fatal("more comes out than went in")
			}
		}
		if segments.Protocol != 0 {
			s, _ := overlay.NewSegmenter(data, segments)
			s.PutPseudoSum()
			_, _ = overlay.Restore(data, segments, overlay.Part{First: int(first), Last: last})
		}
	})
}

// TestSegmenterGarbage cuts and restores noise.
func TestSegmenterGarbage(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		f := super("02:00:00:00:00:01", "02:00:00:00:00:02", r.IntN(200), 1+r.IntN(50))
		f.Data = f.Data[:r.IntN(len(f.Data)+1)]
		if len(f.Data) > 12 {
			f.Data[12+r.IntN(len(f.Data)-12)] = byte(r.Uint32())
		}
		f.Segments.Protocol = overlay.Protocol(r.IntN(6))
		f.Segments.Transport = uint16(r.IntN(80))
		if s, err := overlay.NewSegmenter(f.Data, f.Segments); err == nil {
			for n := s.NextLen(); n > 0; n = s.NextLen() {
				s.Next(make([]byte, n))
			}
			_, _ = overlay.Restore(f.Data, f.Segments, overlay.Part{First: r.IntN(4), Last: true})
		}
	}
}

package sleeve_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/sleeve"
)

// recorder keeps the first datagrams that are sent.
type recorder struct {
	sleeve.Conn
	mu   sync.Mutex
	kept [][]byte
}

func (r *recorder) WriteBatch(msgs []sleeve.Message) (int, error) {
	n, err := r.Conn.WriteBatch(msgs)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range msgs[:n] {
		if len(r.kept) < 512 && len(m.Data) < 1500 {
			r.kept = append(r.kept, bytes.Clone(m.Data))
		}
	}
	return n, err
}

// attack is a datagram of somebody who may have seen some of ours.
func attack(r *rand.Rand, kept [][]byte) []byte {
	d := bytes.Clone(kept[r.IntN(len(kept))])
	switch r.IntN(5) {
	case 0: // noise
		for i := range d {
			d[i] = byte(r.Uint32())
		}
	case 1: // noise behind a header that is right
		for i := 6 + r.IntN(11); i < len(d); i++ {
			d[i] = byte(r.Uint32())
		}
	case 2: // cut off, somewhere or early
		d = d[:r.IntN([]int{len(d), 40}[r.IntN(2)])]
	case 3: // forged
		d[r.IntN(len(d))] ^= 1 << r.IntN(8)
	}
	return d // case 4: again
}

// numbered sends numbered frames from A to B, a few at a time, and looks that none arrives twice.
type numbered struct {
	t    *testing.T
	c    *overlaytest.Conn
	next uint32
	seen map[uint32]bool
}

func (s *numbered) exchange(frames int) {
	var batch []overlay.Frame
	for range frames {
		f := frame(s.t, 300, true)
		binary.BigEndian.PutUint32(f.Data[34:], s.next)
		s.next++
		batch = append(batch, f)
	}
	s.c.A.Link.Send(batch)
	for deadline := time.After(100 * time.Millisecond); frames > 0; frames-- {
		select {
		case f := <-s.c.B.Frames:
			n := binary.BigEndian.Uint32(f.Data[34:])
			require.False(s.t, s.seen[n], "a frame came twice")
			s.seen[n] = true
		case <-deadline:
			return
		}
	}
}

// loss exchanges frames until enough says so, and returns the share of those that were lost.
func (s *numbered) loss(enough func(n int) bool) float64 {
	next, seen := s.next, len(s.seen)
	for n := 0; !enough(n); n++ {
		s.exchange(4)
	}
	return 1 - float64(len(s.seen)-seen)/float64(s.next-next)
}

// TestBlast floods one end of an established link with noise, with what was cut off or forged, and with what came before, as
// fast as two senders can. Its own traffic goes on and arrives once, nearly as much of it as without, memory stays as it was, and
// each is counted by its reason.
func TestBlast(t *testing.T) {
	for _, which := range []string{sleeve.Name, sleeve.Name2} {
		t.Run(which, func(t *testing.T) { testBlast(t, which) })
	}
}

func testBlast(t *testing.T, which string) {
	loopback(t)
	socketA, err := sleeve.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	record := &recorder{Conn: socketA}
	a := newEnd(t, nameA, socketA.LocalAddr(), record)
	b := udpEnd(t, nameB, "127.0.0.2")
	victim := b.Overlay.(*sleeve.Overlay)
	if which == sleeve.Name2 {
		a, b = second(a), second(b)
	}
	c := overlaytest.Connect(a, b, 77, testKey)
	require.NoError(t, c.Up())
	t.Cleanup(c.Close)
	require.Equal(t, overlay.Established, (<-c.A.Events).Kind)
	require.Equal(t, overlay.Established, (<-c.B.Events).Kind)
	s := &numbered{t: t, c: c, seen: map[uint32]bool{}}
	s.loss(func(n int) bool { return n == 100 })
	record.mu.Lock()
	kept := record.kept
	record.mu.Unlock()

	heap, sent := heapInUse(), new(atomic.Int64)
	requireLittleLoss(t, s, kept, sent)
	require.Less(t, heapInUse(), heap+8<<20)
	count := func() (counts []uint64) {
		all, drops := victim.Status(), c.B.Link.Status().Drops
		return []uint64{all.Strangers, all.Short, drops["not_authentic"], drops["replayed"]}
	}
	require.Eventually(t, func() bool { return !slices.Contains(count(), 0) }, 20*time.Second, 10*time.Millisecond)
	total := uint64(0)
	for _, n := range count() {
		total += n
	}
	require.Greater(t, total, uint64(1000), "the others found no room in the socket")
	require.LessOrEqual(t, total, uint64(sent.Load()))
	require.Equal(t, c.A.Params.Local, c.B.Link.Status().Remote, "nobody moved the link")
}

// requireLittleLoss measures loss without the blast and under it, side by side. Somebody else may take the processor from the
// reader for long enough to fill the socket, so there are several tries.
func requireLittleLoss(t *testing.T, s *numbered, kept [][]byte, sent *atomic.Int64) {
	t.Helper()
	const hostile = 20_000 // datagrams, of which many find no room in the socket
	const more, tries = 0.05, 5
	blasters, exchanges := 2, 1000
	if sleeve.RaceDetector { // which takes our share of the processor
		blasters, exchanges = 1, 100
	}
	for try := 1; ; try++ {
		quiet := s.loss(func(n int) bool { return n >= exchanges })
		stop, before := make(chan struct{}), sent.Load()
		var blasting sync.WaitGroup
		for i := range blasters {
			blasting.Go(func() { blast(t, s.c.B.Params.Local, uint64(i), kept, sent, stop) })
		}
		loud := s.loss(func(n int) bool { return n >= exchanges && sent.Load()-before >= hostile })
		close(stop)
		blasting.Wait()
		t.Logf("%.2f %% of frames lost, %.2f %% among %d hostile datagrams", 100*quiet, 100*loud, sent.Load()-before)
		if loud <= quiet+more {
			return
		}
		if try == tries {
			require.True(t, sleeve.RaceDetector && loud < 1, "too many")
			return
		}
	}
}

func blast(t *testing.T, to netip.AddrPort, seed uint64, kept [][]byte, sent *atomic.Int64, stop <-chan struct{}) {
	socket, err := sleeve.Listen(netip.MustParseAddrPort("127.0.0.66:0"))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = socket.Close() }()
	r := rand.New(rand.NewPCG(seed, 1))
	msgs := make([]sleeve.Message, 4096)
	for i := range msgs {
		msgs[i] = sleeve.Message{Data: attack(r, kept), Remote: to, DontFragment: true}
	}
	for {
		for rest := msgs; len(rest) > 0; {
			select {
			case <-stop:
				return
			default:
			}
			n, err := socket.WriteBatch(rest)
			sent.Add(int64(n))
			if err != nil {
				n = 1
			}
			rest = rest[n:]
		}
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

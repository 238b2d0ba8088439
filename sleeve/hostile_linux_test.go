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

// TestBlast floods one end of an established link with noise, with what was cut off or forged, and with what came before, as
// fast as two senders can. Its own traffic goes on and arrives once, memory stays as it was, and each is counted by its reason.
func TestBlast(t *testing.T) {
	for _, which := range []string{sleeve.Name, sleeve.Name2} {
		t.Run(which, func(t *testing.T) {
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

			next, seen := uint32(0), map[uint32]bool{}
			exchange := func(frames int) {
				var batch []overlay.Frame
				for range frames {
					f := frame(t, 300, true)
					binary.BigEndian.PutUint32(f.Data[34:], next)
					next++
					batch = append(batch, f)
				}
				c.A.Link.Send(batch)
				for deadline := time.After(100 * time.Millisecond); frames > 0; frames-- {
					select {
					case f := <-c.B.Frames:
						n := binary.BigEndian.Uint32(f.Data[34:])
						require.False(t, seen[n], "a frame came twice")
						seen[n] = true
					case <-deadline:
						return
					}
				}
			}
			for range 100 {
				exchange(4)
			}
			record.mu.Lock()
			kept := record.kept
			record.mu.Unlock()
			heap := heapInUse()

			stop, sent := make(chan struct{}), new(atomic.Int64)
			var blasting sync.WaitGroup
			const enough = 20_000 // hostile datagrams, of which many find no room in the socket
			blasters, exchanges := 2, 1000
			if sleeve.RaceDetector {
				blasters, exchanges = 1, 100
			}
			for i := range blasters {
				blasting.Go(func() { blast(t, c.B.Params.Local, uint64(i), kept, sent, stop) })
			}
			before, begin := len(seen), next
			started := time.Now()
			for n := 0; n < exchanges || sent.Load() < enough; n++ {
				exchange(4)
			}
			took := time.Since(started)
			close(stop)
			blasting.Wait()
			arrived := len(seen) - before
			t.Logf("%d of %d frames lost among %d hostile datagrams in %v", int(next-begin)-arrived, next-begin, sent.Load(), took)
			require.Positive(t, arrived)
			if !sleeve.RaceDetector { // which takes our share of the processor
				require.Greater(t, arrived, int(next-begin)/2)
			}

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
		})
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

package fastdp

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/odp"
)

const (
	readerRestart = 100 * time.Millisecond
	// readerStuck is how long a reader may be at the frames that it has read; every request to the kernel ends sooner.
	readerStuck = 15 * time.Second
)

// reader handles what one socket receives: frames that no flow matches, and those that flows give to user space. It has a
// connection of its own to the kernel, so that readers do not wait for each other.
type reader struct {
	s       *session
	tunnels bool // it is for tunnels, not for the host's own ports
	conn    *odp.Conn
	work    *work
	ups     [missBatch]odp.Upcall
	busy    atomic.Int64 // when it read what it is at, in Unix nanoseconds; 0: it waits for more
	left    atomic.Bool  // another one has taken its place

	mu     sync.Mutex
	socket *odp.UpcallReader // replaced when it fails
}

// sockets are those that ports send to what they miss: ports of this host, and tunnels. So a container that has much missed
// does not have heartbeats lost.
type sockets struct{ local, tunnels []uint32 }

// of returns the sockets for a port.
func (s *sockets) of(r role) []uint32 {
	if r == roleTunnel {
		return s.tunnels
	}
	return s.local
}

// openReaders opens the first readers: half as many for tunnels as for other ports. Newer kernels refuse ports more sockets
// than there are processors.
func (s *session) openReaders(ctx context.Context) error {
	local := min(s.cfg.Readers, possibleCPUs())
	for i := range local + (local+1)/2 {
		r, err := s.openReader(ctx, i >= local)
		if err != nil {
			return err
		}
		s.kernel.readers = append(s.kernel.readers, r) // nobody else has it yet
	}
	s.setSockets()
	return nil
}

// possibleCPUs returns how many processors the kernel counts, also those that this program may not use.
func possibleCPUs() int {
	list, _ := os.ReadFile("/sys/devices/system/cpu/possible") // such as 0-7: the last number is the highest
	text := strings.TrimSpace(string(list))
	if n, err := strconv.Atoi(text[strings.LastIndexAny(text, "-,")+1:]); err == nil && n >= 0 {
		return n + 1
	}
	return runtime.NumCPU()
}

// list returns the readers. The list is not to be changed.
func (k *kernel) list() []*reader {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.readers
}

func (k *kernel) readerStatus() (out []ReaderStatus) {
	for _, r := range k.list() {
		socket := r.upcalls()
		out = append(out, ReaderStatus{Tunnels: r.tunnels, Socket: socket.PID(), Stats: socket.Stats()})
	}
	return out
}

func (s *session) openReader(ctx context.Context, tunnels bool) (*reader, error) {
	conn, err := odp.Open(ctx, s.cfg.ODP)
	if err != nil {
		return nil, err
	}
	r := &reader{s: s, tunnels: tunnels, conn: conn, work: newWork(s.Datapath, conn, s.kernel.dp)}
	if r.socket, err = r.open(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return r, nil
}

func (r *reader) open() (*odp.UpcallReader, error) {
	return r.conn.OpenUpcalls(odp.UpcallConfig{Batch: missBatch, KeepQueueing: true})
}

// setSockets notes the sockets that there are. Ports are told when they are looked at.
func (s *session) setSockets() {
	s.kernel.mu.Lock()
	defer s.kernel.mu.Unlock()
	var now sockets
	for _, r := range s.kernel.readers {
		if pid := r.upcalls().PID(); r.tunnels {
			now.tunnels = append(now.tunnels, pid)
		} else {
			now.local = append(now.local, pid)
		}
	}
	s.kernel.sockets.Store(&now)
	s.table.pid.Store(now.local[0])
	s.touch()
	s.changed(overlay.Change{})
}

func (r *reader) upcalls() *odp.UpcallReader {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.socket
}

func (r *reader) close() {
	_ = r.upcalls().Close()
	_ = r.conn.Close()
}

// supervise reads until ctx ends or the datapath is gone, on a new socket whenever the old one fails. It returns nil if
// another reader has taken its place.
func (r *reader) supervise(ctx context.Context) error {
	for {
		err := r.run(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isGone(err):
			return errGone
		case r.left.Load():
			return nil
		}
		r.s.stats.readerRestarts.Add(1)
		r.s.log.Warn("fastdp: a reader of misses is replaced", "err", err)
		if pause(ctx, readerRestart) != nil {
			return context.Cause(ctx)
		}
		if err := r.replace(); err != nil {
			r.s.log.Warn("fastdp: no new reader of misses", "err", err)
		}
	}
}

// replace opens a new socket in place of one that failed.
func (r *reader) replace() error {
	socket, err := r.open()
	if err != nil {
		return err
	}
	r.mu.Lock()
	old := r.socket
	r.socket = socket
	r.mu.Unlock()
	r.s.setSockets()
	return old.Close()
}

func (r *reader) run(ctx context.Context) error {
	socket := r.upcalls()
	for {
		n, err := socket.Read(ctx, r.ups[:])
		if err != nil {
			return err
		}
		r.busy.Store(time.Now().UnixNano())
		err = r.handle(ctx, r.ups[:n])
		r.busy.Store(0)
		if isGone(err) {
			return err
		}
		if err != nil {
			r.s.log.Warn("fastdp: misses not handled", "err", err)
		}
	}
}

// tendReaders has others take the places of readers that are stuck.
func (s *session) tendReaders(ctx context.Context, now time.Time) error {
	for i, r := range s.kernel.list() {
		began := r.busy.Load()
		if began == 0 || now.Sub(time.Unix(0, began)) < readerStuck {
			continue
		}
		s.stats.readersStuck.Add(1)
		s.log.Warn("fastdp: a reader of misses is stuck, and another takes its place")
		fresh, err := s.openReader(ctx, r.tunnels)
		if err != nil {
			return err
		}
		s.kernel.mu.Lock()
		s.kernel.readers = slices.Clone(s.kernel.readers)
		s.kernel.readers[i] = fresh
		s.kernel.mu.Unlock()
		s.setSockets()
		s.serve(fresh)
		r.left.Store(true)
		r.close()
	}
	return nil
}

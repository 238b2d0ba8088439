package fastdp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/overweave/overweave/odp"
)

// session is a datapath for as long as it is there.
type session struct {
	*Datapath
	kernel *kernel
	serve  func(*reader)        // has a reader run
	adopt  time.Time            // until when flows of a former run are left alone
	unused map[uint16]time.Time // tunnel ports that no link has: since when
}

const (
	// userNumber is the number of the port of user-space overlays. It is never given to another port, so that flows of a former
	// run, whose port is gone, are not taken for those of another.
	userNumber = 65000
)

// setUp makes or adopts the datapath, its sockets, its ports and its flows.
func (s *session) setUp(ctx context.Context) error {
	if err := s.guard(); err != nil {
		return err
	}
	if err := s.openDatapath(ctx); err != nil {
		return err
	}
	if err := s.openReaders(ctx); err != nil {
		return err
	}
	if err := s.ensurePorts(ctx, s.kernel); err != nil {
		return err
	}
	return s.adoptFlows(ctx)
}

func (s *session) close() {
	for _, r := range s.kernel.list() {
		r.close()
	}
}

// guard closes the tunnel ports before anything else, also to flows of a former run.
func (s *session) guard() error {
	if s.cfg.Protector == nil {
		return nil
	}
	for _, udp := range s.wantedTunnels() {
		if err := s.cfg.Protector.Guard(udp); err != nil {
			return fmt.Errorf("guard tunnel port %d: %w", udp, err)
		}
	}
	return nil
}

// openDatapath finds or makes the datapath.
func (s *session) openDatapath(ctx context.Context) error {
	k := s.kernel
	dp, err := k.conn.Datapath(ctx, s.cfg.Name)
	if errors.Is(err, os.ErrNotExist) {
		s.index.clear()
		dp, err = k.conn.CreateDatapath(ctx, odp.DatapathSpec{Name: s.cfg.Name})
	}
	if err != nil {
		return err
	}
	k.dp = dp.Index
	s.stats.lost.Store(dp.Stats.Lost) // before this run
	return s.setFeatures(ctx)
}

// features are those of our datapaths: sockets for misses belong to ports. Newer kernels can give a socket to each processor
// instead, but then heartbeats wait behind whatever containers have missed.
const features = odp.Unaligned | odp.VportPIDs

func (s *session) setFeatures(ctx context.Context) error {
	_, err := s.kernel.conn.SetFeatures(ctx, s.kernel.dp, features, nil)
	return err
}

// watch waits for events that others cause.
func (s *session) watch(ctx context.Context, events *odp.EventReader) error {
	for {
		e, err := events.Read(ctx)
		switch {
		case errors.Is(err, odp.ErrEventsLost):
			s.stats.eventsLost.Add(1)
			s.touch()
		case err != nil:
			return err
		case e.Index != s.kernel.dp:
		case e.Datapath != nil && e.Change == odp.Deleted:
			return errGone
		default:
			s.touch()
		}
	}
}

package overlay

import (
	"context"
	"time"
)

const (
	groupInterval = time.Second
	announceGap   = 200 * time.Millisecond
)

// runGroups asks stations for the groups that they are members of, and announces what it learns, until ctx ends. What is
// new is announced at once, but then not again for announceGap: stations can join and leave faster than peers care to know.
func (s *Switch) runGroups(ctx context.Context) {
	s.forwarder.startSnooping(time.Now(), s.port != nil)
	tick := time.NewTicker(groupInterval)
	defer tick.Stop()
	due, gap := s.forwarder.snooper.due, (<-chan time.Time)(nil)
	s.tendGroups()
	for {
		select {
		case <-tick.C:
			s.tendGroups()
		case <-due:
			s.tendGroups()
			due, gap = nil, time.After(announceGap)
		case <-gap:
			due, gap = s.forwarder.snooper.due, nil
		case <-ctx.Done():
			return
		}
	}
}

func (s *Switch) tendGroups() {
	queries, news := s.forwarder.tendGroups(time.Now())
	for _, q := range queries {
		if err := s.port.WriteFrames([]Frame{{Data: q}}); err != nil {
			s.portErr.Add(1)
		}
	}
	if news != nil {
		s.announce(news)
	}
}

package mesh

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxSurrogates = 64   // channels we do not serve that are passed on at a time
	maxRemembered = 4096 // payloads remembered for each
)

// surrogates stand in for channels that we do not serve (section 5.7 of the mesh specification): gossip is passed on
// unless it came before. Weave Net remembers payloads for ever in number; here both channels and payloads are bounded, the
// payloads by their hashes, and channels go when they have been quiet for an interval. It is safe for concurrent use.
type surrogates struct {
	interval time.Duration
	seed     maphash.Seed

	dropped atomic.Uint64 // messages that found no room

	mu       sync.Mutex
	channels map[string]*surrogate
}

type surrogate struct {
	seen map[uint64]time.Time // when a payload was taken in, by its hash
	last time.Time            // when something came
}

func newSurrogates(interval time.Duration) *surrogates {
	return &surrogates{interval: interval, seed: maphash.MakeSeed(), channels: map[string]*surrogate{}}
}

// admit reports whether a broadcast on a channel may be passed on: there is room for the channel.
func (s *surrogates) admit(channel []byte, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.channelLocked(channel, now) != nil
}

// fresh reports whether gossip is to be passed on, and remembers it if so.
func (s *surrogates) fresh(channel, payload []byte, now time.Time) bool {
	h := maphash.Bytes(s.seed, payload)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.channelLocked(channel, now)
	if c == nil {
		return false
	}
	if _, have := c.seen[h]; have {
		return false
	}
	limit := now.Add(-s.interval)
	for k, t := range c.seen {
		if !t.After(limit) {
			delete(c.seen, k)
		}
	}
	if len(c.seen) >= maxRemembered {
		s.dropped.Add(1)
		return false
	}
	c.seen[h] = now
	return true
}

// channelLocked returns the surrogate of a channel, nil if there is no room for it.
func (s *surrogates) channelLocked(channel []byte, now time.Time) *surrogate {
	c := s.channels[string(channel)]
	if c == nil {
		if len(s.channels) >= maxSurrogates {
			s.expireLocked(now)
		}
		if len(s.channels) >= maxSurrogates {
			s.dropped.Add(1)
			return nil
		}
		c = &surrogate{seen: map[uint64]time.Time{}}
		s.channels[string(channel)] = c
	}
	c.last = now
	return c
}

func (s *surrogates) expireLocked(now time.Time) {
	for name, c := range s.channels {
		if now.Sub(c.last) > s.interval {
			delete(s.channels, name)
		}
	}
}

package ipam_test

import (
	"context"
	"log/slog"
	"sync"
)

// tally counts what allocators log, by message.
type tally struct {
	mu    sync.Mutex
	times map[string]int
}

var _ slog.Handler = (*tally)(nil)

func (t *tally) Enabled(context.Context, slog.Level) bool { return true }
func (t *tally) WithAttrs([]slog.Attr) slog.Handler       { return t }
func (t *tally) WithGroup(string) slog.Handler            { return t }

func (t *tally) Handle(_ context.Context, r slog.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.times == nil {
		t.times = make(map[string]int)
	}
	t.times[r.Message]++
	return nil
}

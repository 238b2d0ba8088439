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

func (t *tally) count(message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.times == nil {
		t.times = make(map[string]int)
	}
	t.times[message]++
}

// ear hands what one allocator logs to a function, under the allocator's lock.
type ear func(slog.Record)

var _ slog.Handler = ear(nil)

func (e ear) Enabled(context.Context, slog.Level) bool { return true }
func (e ear) WithAttrs([]slog.Attr) slog.Handler       { return e }
func (e ear) WithGroup(string) slog.Handler            { return e }

func (e ear) Handle(_ context.Context, r slog.Record) error {
	e(r)
	return nil
}

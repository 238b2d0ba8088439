package demo

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress shows what the demo is waiting for: a line that changes on a terminal, a line for each step elsewhere. The zero
// output shows nothing. It is safe for concurrent use.
type progress struct {
	out      io.Writer // nil: silent
	terminal bool
	start    time.Time

	mu   sync.Mutex
	step string
	at   time.Time
}

// begin names the next step.
func (p *progress) begin(step string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.at = step, time.Now()
	p.draw("")
}

// detail says how far the step is; shown on terminals only.
func (p *progress) detail(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw(fmt.Sprintf(format, args...))
}

// done ends the step.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out == nil {
		return
	}
	line := fmt.Sprintf("%5.1fs  %s", time.Since(p.start).Seconds(), p.step)
	if p.terminal {
		line = "\r\x1b[K" + line
	}
	fmt.Fprintln(p.out, line)
}

// draw rewrites the line of the current step. The caller holds mu.
func (p *progress) draw(detail string) {
	if p.out == nil || !p.terminal {
		return
	}
	fmt.Fprintf(p.out, "\r\x1b[K%5.1fs  %s ... %s", time.Since(p.start).Seconds(), p.step, detail)
}

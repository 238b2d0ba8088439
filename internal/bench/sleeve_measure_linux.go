package main

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/overweave/overweave/internal/lab"
)

const (
	warmUp       = 500 * time.Millisecond // of each load, before it counts
	figureGrace  = 15 * time.Second       // beyond its window, for a figure to be had
	streamsEach  = 4
	pingInterval = 5 * time.Millisecond
)

// errNoFigure is the answer of a mode to which a figure does not apply.
var errNoFigure = errors.New("there is no such figure")

// flow is a load from one container to the other, and what arrives of it.
type flow struct {
	from, to int
	sender   string // kinds of child
	receiver string
	streams  int
}

// carry lets flows run at once and returns what each receiver counted.
func (p *pair) carry(ctx context.Context, window time.Duration, flows ...flow) (counts []received, err error) {
	ctx, cancel := context.WithTimeout(ctx, window+warmUp+figureGrace)
	var children []*child
	defer func() {
		cancel()
		for _, c := range children {
			_ = c.cmd.Wait() // killed, as meant
		}
	}()
	start := func(ns *lab.Namespace, kind string, config any) (*child, error) {
		c, err := startChild(ctx, ns, kind, config)
		if err == nil {
			children = append(children, c)
		}
		return c, err
	}
	receivers := make([]*child, len(flows))
	for i, f := range flows {
		r, err := start(p.containers[f.to], f.receiver, receiverConfig{Addr: p.addrs[f.to], Streams: f.streams, WarmUp: warmUp, Window: window})
		if err != nil {
			return nil, err
		}
		receivers[i] = r
		var at listening
		if err := r.next(&at); err != nil {
			return nil, err
		}
		if _, err := start(p.containers[f.from], f.sender, senderConfig{To: at.At, Streams: f.streams}); err != nil {
			return nil, err
		}
	}
	counts = make([]received, len(flows))
	for i, r := range receivers {
		if err := r.next(&counts[i]); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

func measureStream(ctx context.Context, p *pair, window time.Duration) (float64, error) {
	return p.gigabits(ctx, window, flow{0, 1, "source", "sink", 1})
}

func measureStreams(ctx context.Context, p *pair, window time.Duration) (float64, error) {
	return p.gigabits(ctx, window, flow{0, 1, "source", "sink", streamsEach}, flow{1, 0, "source", "sink", streamsEach})
}

// gigabits returns the sum of what the flows carry, in Gbit/s of TCP payload.
func (p *pair) gigabits(ctx context.Context, window time.Duration, flows ...flow) (sum float64, err error) {
	counts, err := p.carry(ctx, window, flows...)
	for _, c := range counts {
		sum += float64(c.Bytes) * 8 / c.Seconds / 1e9
	}
	return sum, err
}

func measurePackets(ctx context.Context, p *pair, window time.Duration) (float64, error) {
	counts, err := p.carry(ctx, window, flow{0, 1, "blast", "count", 1})
	if err != nil {
		return 0, err
	}
	return float64(counts[0].Packets) / counts[0].Seconds / 1000, nil
}

func measurePing(ctx context.Context, p *pair, window time.Duration) (float64, error) {
	trips, err := p.ping(ctx, pingConfig{To: p.addrs[1], Count: max(1, int(window/pingInterval)), Interval: pingInterval})
	if err != nil {
		return 0, err
	}
	return median(trips), nil
}

// ping pings from the first container and returns the round trips in microseconds.
func (p *pair) ping(ctx context.Context, c pingConfig) (trips []float64, err error) {
	pinger, err := startChild(ctx, p.containers[0], "ping", c)
	if err != nil {
		return nil, err
	}
	err = pinger.next(&trips)
	if wait := pinger.cmd.Wait(); err == nil {
		err = wait
	}
	return trips, err
}

// measureMemory looks at the daemons as the figure before has left them.
func measureMemory(_ context.Context, p *pair, _ time.Duration) (most float64, err error) {
	if len(p.daemons) == 0 {
		return 0, errNoFigure
	}
	for _, d := range p.daemons {
		m, err := memoryMiB(d.cmd.Process.Pid, "VmRSS")
		if err != nil {
			return 0, err
		}
		most = max(most, m)
	}
	return most, nil
}

// What loads are told, and what they say.
type (
	receiverConfig struct {
		Addr           netip.Addr
		Streams        int
		WarmUp, Window time.Duration
	}
	senderConfig struct {
		To      netip.AddrPort
		Streams int
	}
	pingConfig struct {
		To       netip.Addr
		Count    int
		Interval time.Duration
	}
	listening struct{ At netip.AddrPort }
	received  struct {
		Bytes, Packets uint64
		Seconds        float64
	}
)

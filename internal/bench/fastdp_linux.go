package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/lab"
)

const figureTries = 3

type fastdpOptions struct {
	only    string
	rounds  int
	seconds float64
	pairs   int
	macs    int
	json    bool
}

// runFastDP measures two containers on two hosts of one kernel, joined by fastdp and by what it is compared with, and what
// fastdp does with many MAC addresses. It runs in a guest kernel if this one lacks what it takes.
func runFastDP(ctx context.Context, args []string, out io.Writer) error {
	var o fastdpOptions
	fs := flag.NewFlagSet("fastdp", flag.ContinueOnError)
	fs.StringVar(&o.only, "only", "", "only these modes, separated by commas: "+strings.Join(fastdpModeNames(), ", "))
	fs.IntVar(&o.rounds, "rounds", 9, "number of rounds; the medians of all are printed")
	fs.Float64Var(&o.seconds, "seconds", 1, "how long each figure is measured in each round")
	fs.IntVar(&o.pairs, "pairs", 100_000, "frames of new pairs out of 1,000 x 1,000 MAC addresses; 0: leave that out")
	fs.IntVar(&o.macs, "macs", 10_000, "MAC addresses on 100 simulated peers; 0: leave that out")
	fs.BoolVar(&o.json, "json", false, "print one JSON object")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.rounds < 1 || o.seconds <= 0 || o.pairs < 0 || o.pairs > 1_000_000 || o.macs < 0 || o.macs > 60_000 {
		return errors.New("fastdp: want --rounds of at least 1, --seconds above 0, --pairs up to 1000000 and --macs up to 60000")
	}
	modes := fastdpModes()
	if o.only == "none" {
		modes = nil
	} else if chosen, err := choose("mode", fastdpModeNames(), o.only, modes); err != nil {
		return err
	} else {
		modes = chosen
	}
	if done, err := elsewhere(lab.OpenVSwitch, lab.ESP); done || err != nil {
		return err
	}
	res, err := o.run(ctx, modes) // what there is of it if there is an error
	if o.json {
		return errors.Join(err, json.NewEncoder(out).Encode(res))
	}
	return errors.Join(err, res.print(out))
}

func (o fastdpOptions) run(ctx context.Context, modes []fastdpMode) (*fastdpResult, error) {
	var u unix.Utsname
	_ = unix.Uname(&u) // else the kernel has no name
	res := &fastdpResult{
		CPUs: runtime.NumCPU(), Kernel: unix.ByteSliceToString(u.Release[:]), Go: runtime.Version(), Rounds: o.rounds, Seconds: o.seconds,
	}
	var errs []error
	if len(modes) > 0 {
		if err := o.throughput(ctx, modes, res); err != nil {
			errs = append(errs, err)
		}
	}
	if o.pairs > 0 {
		var err error
		if res.Pairs, err = measurePairs(ctx, o.pairs); err != nil {
			errs = append(errs, fmt.Errorf("pairs: %w", err))
		}
	}
	if o.macs > 0 {
		var err error
		if res.Scale, err = measureScale(ctx, o.macs); err != nil {
			errs = append(errs, fmt.Errorf("MAC addresses on many peers: %w", err))
		}
	}
	return res, errors.Join(errs...)
}

// pingTurns is the number of turns in which the pings of a round are taken. How fast a machine wakes up changes from second to
// second by more than what is compared.
const pingTurns = 10

// throughput takes the figures of all modes, which stand side by side, in turns.
func (o fastdpOptions) throughput(ctx context.Context, modes []fastdpMode, res *fastdpResult) (err error) {
	figures := sleeveFigures()[:2] // ping, stream
	var pairs []*pair
	runs := make([]group, len(modes))
	defer func() {
		for i, p := range pairs {
			err = errors.Join(err, runs[i].stop(), p.Close())
		}
	}()
	for i, m := range modes {
		p, err := openPair(ctx, mode{name: m.name, setup: func(ctx context.Context, p *pair) error { return m.setup(ctx, p, &runs[i]) }}, "")
		if err != nil {
			res.Modes = nil
			return errors.Join(fmt.Errorf("%s: %w", m.name, err), runs[i].stop())
		}
		pairs = append(pairs, p)
		res.Modes = append(res.Modes, newFastDPMode(m, p.mtu, figures))
	}
	for round := range o.rounds {
		for f, fig := range figures {
			turns := 1
			if fig.name == "ping" {
				turns = pingTurns
			}
			for turn := range turns {
				if err := o.takeTurn(ctx, pairs, res, f, fig, round*turns+turn, turns); err != nil {
					res.Modes = nil // half a comparison is none
					return err
				}
			}
		}
	}
	res.summarize()
	return nil
}

// takeTurn measures figure f of each mode, one after another, for a part of the time of a round.
func (o fastdpOptions) takeTurn(ctx context.Context, pairs []*pair, res *fastdpResult, f int, fig figure, turn, parts int) error {
	window := sleeveOptions{seconds: o.seconds / float64(parts)}.window()
	for i := range pairs {
		i = (i + turn) % len(pairs)
		value, err := fig.measure(ctx, pairs[i], window)
		for tries := 1; err != nil && ctx.Err() == nil && tries < figureTries; tries++ { // a machine that is busy
			value, err = fig.measure(ctx, pairs[i], window)
		}
		if err != nil {
			return fmt.Errorf("%s, %s: %w", res.Modes[i].Mode, fig.name, err)
		}
		item := res.Modes[i].Figures[f]
		item.Rounds = append(item.Rounds, value)
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/overweave/overweave/internal/lab"
)

type sleeveOptions struct {
	only, figures string
	rounds        int
	seconds       float64
	profile       string
	json          bool
}

// window is how long each figure is measured.
func (o sleeveOptions) window() time.Duration { return time.Duration(o.seconds * float64(time.Second)) }

// runSleeve measures ways to join two containers on two hosts, next to each other. Everything stands from the start; in each
// round each figure is taken of one mode after the other, so that what changes on the machine meanwhile changes for all.
//
// With --profile it shows where the time goes. One TCP stream between two containers, sealed by sleeve2 and on an underlay with
// an MTU of 1500, as measured by
//
//	go run ./internal/bench sleeve --only sleeve2 --figures stream --profile DIR
//
// on 2 cores with AES instructions, at 4 Gbit/s while others used the machine as well, had each daemon take two fifths of a core:
//
//	sender: 45 % AES-GCM, 25 % sendmmsg (two messages for each super-frame), 12 % reading the TAP device
//	receiver: 42 % AES-GCM, 19 % recvmmsg, 17 % writing the TAP device
//	all else, ours and the runtime's: 18 and 22 %; no function of ours has more than 4 %
//
// The other 60 % of the machine were the kernel's: the two TCP ends, which copy each byte, the veth pairs and the bridges. With a
// cipher that costs nothing the stream would be that in the clear, 3.5 times that of wireguard-go where the sealed one is 2.2
// times; what the sender copies once in memory of ours is 5 % of its daemon's time. On the old wire, sealed, XSalsa20-Poly1305
// took 72 % of the receiver's time, and limited the stream to about 1.5 Gbit/s.
func runSleeve(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 3 && args[0] == childWord {
		return runChild(ctx, args[1], args[2], out)
	}
	var o sleeveOptions
	fs := flag.NewFlagSet("sleeve", flag.ContinueOnError)
	fs.StringVar(&o.only, "only", "", "only these modes, separated by commas: "+strings.Join(modeNames(), ", "))
	fs.StringVar(&o.figures, "figures", "", "only these figures, separated by commas: "+strings.Join(figureNames(), ", "))
	fs.IntVar(&o.rounds, "rounds", 5, "number of rounds; the medians of all are printed")
	fs.Float64Var(&o.seconds, "seconds", 3, "how long each figure is measured in each round")
	fs.StringVar(&o.profile, "profile", "", "write CPU profiles of the daemons to this folder, which costs a little")
	fs.BoolVar(&o.json, "json", false, "print one JSON object")
	if err := fs.Parse(args); err != nil {
		return err
	}
	modes, err := choose("mode", modeNames(), o.only, sleeveModes())
	if err != nil {
		return err
	}
	figures, err := choose("figure", figureNames(), o.figures, sleeveFigures())
	if err != nil {
		return err
	}
	if o.rounds < 1 || o.seconds <= 0 || o.seconds > 3600 {
		return errors.New("sleeve: want --rounds of at least 1, --seconds above 0 and up to 3600")
	}
	if code, done, err := lab.Reexec(); err != nil {
		return err
	} else if done {
		os.Exit(code)
	}
	b := &sleeveBench{o: o, figures: figures}
	res, err := b.run(ctx, modes)
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(out).Encode(res)
	}
	return res.print(out)
}

// choose picks from a table the rows with the given names, all if there are none.
func choose[T any](what string, names []string, chosen string, table []T) ([]T, error) {
	if chosen == "" {
		return table, nil
	}
	var out []T
	for name := range strings.SplitSeq(chosen, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, fmt.Errorf("sleeve: no %s %q; there are %s", what, name, strings.Join(names, ", "))
		}
		out = append(out, table[i])
	}
	return out, nil
}

// figure is one thing that is measured of a mode.
type figure struct {
	name, unit string
	about      string
	smaller    bool // is better
	measure    func(ctx context.Context, p *pair, window time.Duration) (float64, error)
}

func sleeveFigures() []figure {
	return []figure{
		{"ping", "µs", "median ping round trip under no load", true, measurePing},
		{"stream", "Gbit/s", "one TCP stream", false, measureStream},
		{"memory", "MiB", "resident memory of the larger daemon after the stream", true, measureMemory},
		{"streams", "Gbit/s", "4 TCP streams in each direction at once, sum", false, measureStreams},
		{"packets", "1000/s", "64-byte UDP payloads received, the sender not limited", false, measurePackets},
	}
}

func figureNames() (names []string) {
	for _, f := range sleeveFigures() {
		names = append(names, f.name)
	}
	return names
}

// sleeveBench is one run of the measurement.
type sleeveBench struct {
	o       sleeveOptions
	figures []figure
	pairs   []*pair
}

func (b *sleeveBench) run(ctx context.Context, modes []mode) (res *sleeveResult, err error) {
	res = newSleeveResult(b.o)
	defer func() {
		for _, p := range b.pairs {
			err = errors.Join(err, p.Close())
		}
	}()
	if b.o.profile != "" {
		if err := os.MkdirAll(b.o.profile, 0o777); err != nil {
			return nil, err
		}
	}
	for _, m := range modes {
		p, err := openPair(ctx, m, b.o.profile)
		switch {
		case errors.Is(err, errLeftOut):
			res.LeftOut = append(res.LeftOut, leftOut{m.name, err.Error()})
		case err != nil && ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", m.name, err)
		default:
			b.pairs = append(b.pairs, p)
			res.Modes = append(res.Modes, newModeResult(p, b.figures))
		}
	}
	for round := range b.o.rounds {
		if err := b.round(ctx, res, round); err != nil {
			return nil, err
		}
	}
	res.summarize()
	return res, nil
}

// round takes each figure of each mode once. The order of the modes changes from round to round.
func (b *sleeveBench) round(ctx context.Context, res *sleeveResult, round int) error {
	for f, fig := range b.figures {
		for i := range b.pairs {
			i = (i + round) % len(b.pairs)
			value, err := fig.measure(ctx, b.pairs[i], b.o.window())
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			res.Modes[i].Figures[f].add(value, err)
		}
	}
	return nil
}

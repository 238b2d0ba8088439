package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sys/unix"
)

// reference is the mode that the others are compared with.
const reference = "wireguard-go"

// sleeveResult is what the sleeve measurement prints.
type sleeveResult struct {
	CPUs    int           `json:"cpus"`
	Kernel  string        `json:"kernel"`
	Go      string        `json:"go"`
	Rounds  int           `json:"rounds"`
	Seconds float64       `json:"seconds"`
	Modes   []*modeResult `json:"modes"`
	LeftOut []leftOut     `json:"left_out,omitempty"`
}

// leftOut is a mode that could not be measured here.
type leftOut struct {
	Mode string `json:"mode"`
	Why  string `json:"why"`
}

type modeResult struct {
	Mode    string          `json:"mode"`
	About   string          `json:"about"`
	MTU     int             `json:"mtu"` // of the containers
	Figures []*figureResult `json:"figures"`
}

type figureResult struct {
	Name   string  `json:"figure"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	// Ratio is the median of the ratios to wireguard-go, taken round by round; 0 if there are none.
	Ratio float64 `json:"ratio,omitempty"`
	// Rounds are the values in the order they were taken; null where the measurement failed.
	Rounds []*float64 `json:"rounds"`
	Failed []string   `json:"failed,omitempty"` // why

	none bool // the mode has no such figure
}

func newSleeveResult(o sleeveOptions) *sleeveResult {
	var u unix.Utsname
	_ = unix.Uname(&u) // else the kernel has no name
	return &sleeveResult{
		CPUs: runtime.NumCPU(), Kernel: unix.ByteSliceToString(u.Release[:]), Go: runtime.Version(), Rounds: o.rounds, Seconds: o.seconds,
	}
}

func newModeResult(p *pair, figures []figure) *modeResult {
	m := &modeResult{Mode: p.mode.name, About: p.mode.about, MTU: p.mtu}
	for _, f := range figures {
		m.Figures = append(m.Figures, &figureResult{Name: f.name, Unit: f.unit})
	}
	return m
}

func (f *figureResult) add(value float64, err error) {
	switch {
	case errors.Is(err, errNoFigure):
		f.none = true
	case err != nil:
		f.Rounds, f.Failed = append(f.Rounds, nil), append(f.Failed, err.Error())
	default:
		f.Rounds = append(f.Rounds, &value)
	}
}

// summarize fills in the medians and the ratios.
func (r *sleeveResult) summarize() {
	var ref *modeResult
	for _, m := range r.Modes {
		if m.Mode == reference {
			ref = m
		}
	}
	for _, m := range r.Modes {
		for i, f := range m.Figures {
			var values, ratios []float64
			for round, v := range f.Rounds {
				if v == nil {
					continue
				}
				values = append(values, *v)
				if ref != nil && round < len(ref.Figures[i].Rounds) {
					if w := ref.Figures[i].Rounds[round]; w != nil && *w > 0 {
						ratios = append(ratios, *v / *w)
					}
				}
			}
			f.Median, f.Ratio = median(values), median(ratios)
		}
	}
}

// print prints a table for people, and what does not fit it below.
func (r *sleeveResult) print(out io.Writer) error {
	if len(r.Modes) > 0 {
		header := []string{"mode", "MTU"}
		for _, f := range r.Modes[0].Figures {
			header = append(header, f.Name+", "+f.Unit, "/ "+reference)
		}
		var rows [][]string
		for _, m := range r.Modes {
			row := []string{m.Mode, fmt.Sprint(m.MTU)}
			for _, f := range m.Figures {
				row = append(row, f.cells()...)
			}
			rows = append(rows, row)
		}
		if err := printTable(out, header, rows); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\nMedians of %d rounds of %g s, %d CPUs, Linux %s, %s. Ratios are taken round by round.\n", r.Rounds, r.Seconds, r.CPUs, r.Kernel, r.Go)
	for _, f := range sleeveFigures() {
		better := "more is better"
		if f.smaller {
			better = "less is better"
		}
		fmt.Fprintf(out, "* %s: %s; %s\n", f.name, f.about, better)
	}
	for _, m := range r.Modes {
		for _, f := range m.Figures {
			for _, why := range f.Failed {
				fmt.Fprintf(out, "%s, %s: failed: %s\n", m.Mode, f.Name, why)
			}
		}
	}
	for _, l := range r.LeftOut {
		fmt.Fprintf(out, "%s: %s\n", l.Mode, l.Why)
	}
	return nil
}

// cells are the median and the ratio. A star marks a figure that was not obtained in all rounds.
func (f *figureResult) cells() []string {
	if f.none {
		return []string{"-", "-"}
	}
	if len(f.Failed) == len(f.Rounds) {
		return []string{"failed", "-"}
	}
	value, ratio := fmt.Sprintf("%.3g", f.Median), "-"
	if f.Median >= 100 {
		value = fmt.Sprintf("%.0f", f.Median)
	}
	if f.Ratio > 0 {
		ratio = fmt.Sprintf("%.2f", f.Ratio)
	}
	if len(f.Failed) > 0 {
		value += "*"
	}
	return []string{value, ratio}
}

package main

import (
	"fmt"
	"io"
)

// fastdpResult is what the fastdp measurement prints.
type fastdpResult struct {
	CPUs    int             `json:"cpus"`
	Kernel  string          `json:"kernel"`
	Go      string          `json:"go"`
	Rounds  int             `json:"rounds"`
	Seconds float64         `json:"seconds"`
	Modes   []*fastdpFigure `json:"modes,omitempty"`
	Pairs   *pairsResult    `json:"pairs,omitempty"`
	Scale   *scaleResult    `json:"scale,omitempty"`
}

// fastdpFigure has the figures of a mode.
type fastdpFigure struct {
	Mode      string        `json:"mode"`
	About     string        `json:"about"`
	MTU       int           `json:"mtu"` // of the containers
	Reference string        `json:"reference,omitempty"`
	Figures   []*fastdpItem `json:"figures"`
}

type fastdpItem struct {
	Name   string    `json:"figure"`
	Unit   string    `json:"unit"`
	Median float64   `json:"median"`
	Rounds []float64 `json:"rounds"` // in the order they were taken; of pings pingTurns in each round
	// Ratio is the median of the ratios to the reference, taken round by round; 0 without one.
	Ratio float64 `json:"ratio,omitempty"`
	// Bar is what the ratio is to reach, or not to exceed if less is better; 0 if there is no such demand.
	Bar float64 `json:"bar,omitempty"`
	Met bool    `json:"met,omitempty"`

	smaller bool
}

func newFastDPMode(m fastdpMode, mtu int, figures []figure) *fastdpFigure {
	r := &fastdpFigure{Mode: m.name, About: m.about, MTU: mtu, Reference: m.reference}
	for _, f := range figures {
		r.Figures = append(r.Figures, &fastdpItem{Name: f.name, Unit: f.unit, Bar: m.bars[f.name], smaller: f.smaller})
	}
	return r
}

// summarize fills in medians, ratios, and whether bars are met.
func (r *fastdpResult) summarize() {
	byName := map[string]*fastdpFigure{}
	for _, m := range r.Modes {
		byName[m.Mode] = m
	}
	for _, m := range r.Modes {
		ref := byName[m.Reference]
		for i, f := range m.Figures {
			f.Median = median(f.Rounds)
			if ref == nil {
				continue
			}
			var ratios []float64
			for round, v := range f.Rounds {
				ratios = append(ratios, v/ref.Figures[i].Rounds[round])
			}
			f.Ratio = median(ratios)
			f.Met = f.Bar > 0 && (f.Ratio >= f.Bar) != f.smaller || f.Bar > 0 && f.Ratio == f.Bar
		}
	}
}

func (r *fastdpResult) print(out io.Writer) error {
	if len(r.Modes) > 0 {
		if err := r.printModes(out); err != nil {
			return err
		}
	}
	if p := r.Pairs; p != nil {
		if err := p.print(out); err != nil {
			return err
		}
	}
	if s := r.Scale; s != nil {
		s.print(out)
	}
	return nil
}

func (r *fastdpResult) printModes(out io.Writer) error {
	header := []string{"mode", "MTU"}
	for _, f := range r.Modes[0].Figures {
		header = append(header, f.Name+", "+f.Unit, "ratio", "bar")
	}
	var rows [][]string
	for _, m := range r.Modes {
		row := []string{m.Mode, fmt.Sprint(m.MTU)}
		for _, f := range m.Figures {
			row = append(row, fmt.Sprintf("%.3g", f.Median))
			row = append(row, f.cells()...)
		}
		rows = append(rows, row)
	}
	if err := printTable(out, header, rows); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nMedians of %d rounds of %g s, Linux %s, %s. Ratios are taken round by round.\n", r.Rounds, r.Seconds, r.Kernel, r.Go)
	if r.CPUs == 1 {
		fmt.Fprintln(out, "There is one CPU: sender, both hosts and receiver share it.")
	} else {
		fmt.Fprintf(out, "There are %d CPUs.\n", r.CPUs)
	}
	for _, m := range r.Modes {
		fmt.Fprintf(out, "* %s: %s", m.Mode, m.About)
		if m.Reference != "" {
			fmt.Fprintf(out, "; compared with %s", m.Reference)
		}
		fmt.Fprintln(out)
	}
	return nil
}

// cells are the ratio and the bar, marked if it is missed.
func (f *fastdpItem) cells() []string {
	ratio, bar := "-", "-"
	if f.Ratio > 0 {
		ratio = fmt.Sprintf("%.3f", f.Ratio)
	}
	if f.Bar > 0 {
		if bar = fmt.Sprintf(">= %.2f", f.Bar); f.smaller {
			bar = fmt.Sprintf("<= %.2f", f.Bar)
		}
		if !f.Met {
			bar += " missed"
		}
	}
	return []string{ratio, bar}
}

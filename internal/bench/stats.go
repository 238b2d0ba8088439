package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// median returns the middle of the values, of an even number the mean of the two in the middle; 0 if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// printTable prints rows as Markdown, for a README as well as for a terminal. The first column is text, the others are figures.
func printTable(out io.Writer, header []string, rows [][]string) error {
	width := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	rule := make([]string, len(header))
	for i := range rule {
		rule[i] = strings.Repeat("-", max(3, width[i]))
		if i > 0 {
			rule[i] = rule[i][1:] + ":"
		}
	}
	for _, row := range append([][]string{header, rule}, rows...) {
		for i, cell := range row {
			pad := strings.Repeat(" ", max(0, max(3, width[i])-utf8.RuneCountInString(cell)))
			if i == 0 {
				cell += pad
			} else {
				cell = pad + cell
			}
			if _, err := fmt.Fprintf(out, "| %s ", cell); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(out, "|"); err != nil {
			return err
		}
	}
	return nil
}

// memoryMiB returns a line of the memory account that the system keeps of a process, such as VmRSS.
func memoryMiB(pid int, line string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok && len(strings.Fields(rest)) > 0 {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d: no %s", pid, line)
}

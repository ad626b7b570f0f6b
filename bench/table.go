package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// sample is what one round of one work measured. Latencies and CPU are in microseconds, memory in bytes.
type sample struct {
	rate          float64
	p50, p95, p99 float64
	cpu           float64
	resident      float64
}

// median returns the middle value, or the mean of the middle two; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// medians takes the median of each figure by itself.
func medians(samples []sample) sample {
	of := func(f func(sample) float64) float64 {
		v := make([]float64, len(samples))
		for i, s := range samples {
			v[i] = f(s)
		}
		return median(v)
	}
	return sample{
		rate:     of(func(s sample) float64 { return s.rate }),
		p50:      of(func(s sample) float64 { return s.p50 }),
		p95:      of(func(s sample) float64 { return s.p95 }),
		p99:      of(func(s sample) float64 { return s.p99 }),
		cpu:      of(func(s sample) float64 { return s.cpu }),
		resident: of(func(s sample) float64 { return s.resident }),
	}
}

// line is one line of the table. Figures that were not taken are 0 and print as a dash.
type line struct {
	name  string
	gogc  string
	s     sample
	ratio float64
}

// bar is one promise and how it came out.
type bar struct {
	work, limit, measured string
	met                   bool
}

func atMost(work, unit string, measured, limit float64) bar {
	return bar{work, fmt.Sprintf("≤ %.2f%s", limit, unit), fmt.Sprintf("%.2f%s", measured, unit), measured <= limit}
}

func printLines(w io.Writer, lines []line) {
	cells := [][]string{{"Server and work", "GOGC", "requests/s", "p50 ms", "p95 ms", "p99 ms", "CPU µs/request", "÷ floor", "resident MB"}}
	for _, l := range lines {
		cells = append(cells, []string{l.name, l.gogc, figure(l.s.rate, 0), figure(l.s.p50/1000, 2), figure(l.s.p95/1000, 2), figure(l.s.p99/1000, 2),
			figure(l.s.cpu, 1), figure(l.ratio, 2), figure(l.s.resident/1e6, 0)})
	}
	printTable(w, cells, 2)
}

func printBars(w io.Writer, bars []bar) {
	cells := [][]string{{"Work", "Must reach", "Measured", ""}}
	for _, b := range bars {
		verdict := "pass"
		if !b.met {
			verdict = "MISS"
		}
		cells = append(cells, []string{b.work, b.limit, b.measured, verdict})
	}
	printTable(w, cells, 4)
}

// figure prints a number with so many decimals, and a dash for one that was not taken.
func figure(v float64, decimals int) string {
	if v == 0 {
		return "–"
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// printTable writes markdown whose columns line up in a terminal; those from right on are right-aligned.
func printTable(w io.Writer, cells [][]string, right int) {
	width := make([]int, len(cells[0]))
	for _, c := range cells {
		for i, s := range c {
			width[i] = max(width[i], len([]rune(s)))
		}
	}
	for n, c := range cells {
		for i, s := range c {
			pad := strings.Repeat(" ", width[i]-len([]rune(s)))
			if i >= right {
				s = pad + s
			} else {
				s += pad
			}
			fmt.Fprintf(w, "| %s ", s)
		}
		fmt.Fprintln(w, "|")
		if n == 0 {
			for i := range c {
				rule := strings.Repeat("-", width[i]+1)
				if i >= right {
					fmt.Fprintf(w, "|%s:", rule)
				} else {
					fmt.Fprintf(w, "|-%s", rule)
				}
			}
			fmt.Fprintln(w, "|")
		}
	}
}

package main

import "fmt"

// report turns the measured works into the table's lines and the bars. Ratios are taken within each round and their
// median is reported: a machine that changes from round to round then changes both sides.
func report(measured []*live) (lines []line, bars []bar) {
	floors := map[string][]sample{} // by the Millrace work's name and GOGC
	plain := map[string][]float64{} // ratios of the work without an API key, by GOGC
	for _, l := range measured {
		if l.kind == kindFloor {
			floors[l.floorOf+l.gogc] = l.samples
		}
	}
	for _, l := range measured {
		if l.name == hitModern {
			plain[l.gogc] = ratios(l.samples, floors[l.floorOf+l.gogc])
		}
	}
	for _, gogc := range []string{gogcDefault, gogcTuned} {
		for _, l := range measured {
			if l.gogc != gogc {
				continue
			}
			each := ratios(l.samples, floors[l.floorOf+gogc])
			lines = append(lines, line{l.name, gogc, medians(l.samples), median(each)})
			if l.limit > 0 {
				bars = append(bars, atMost(fmt.Sprintf("%s, GOGC=%s", l.name, gogc), " of the floor", median(each), l.limit))
			}
			if l.kind == kindKeyed && plain[gogc] != nil {
				more := make([]float64, len(each))
				for i := range each {
					more[i] = each[i] - plain[gogc][i]
				}
				bars = append(bars, atMost(fmt.Sprintf("an API key, beyond the same without, GOGC=%s", gogc), " of the floor", median(more), keyLimit))
			}
		}
	}
	return lines, bars
}

// ratios divides each round's CPU a request by the floor's of the same round.
func ratios(samples, floor []sample) []float64 {
	r := make([]float64, len(samples))
	for i := range samples {
		r[i] = samples[i].cpu / floor[i].cpu
	}
	return r
}

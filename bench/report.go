package main

import "fmt"

// report turns the measured works into the table's lines and the bars.
func report(measured []*live) (lines []line, bars []bar) {
	floors := map[string]float64{} // CPU a request, by the Millrace work's name and GOGC
	for _, l := range measured {
		if l.kind == kindFloor {
			floors[l.floorOf+l.gogc] = medians(l.samples).cpu
		}
	}
	ratios := map[string]float64{}
	var keyed []bar
	for _, gogc := range []string{gogcDefault, gogcTuned} {
		for _, l := range measured {
			if l.gogc != gogc {
				continue
			}
			s := medians(l.samples)
			ratio := s.cpu / floors[l.floorOf+gogc]
			lines = append(lines, line{l.name, gogc, s, ratio})
			ratios[l.id()] = ratio
			if l.limit > 0 {
				bars = append(bars, atMost(fmt.Sprintf("%s, GOGC=%s", l.name, gogc), " of the floor", ratio, l.limit))
			}
			if plain, ok := ratios[work{name: hitModern, gogc: gogc}.id()]; ok && l.kind == kindKeyed {
				keyed = append(keyed, atMost(fmt.Sprintf("an API key, beyond the same without, GOGC=%s", gogc), " of the floor", ratio-plain, keyLimit))
			}
		}
	}
	return lines, append(bars, keyed...)
}

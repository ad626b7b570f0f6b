package main

import (
	"context"
	"fmt"
	"regexp"
	"time"
)

// Names and limits of the works that are measured once and not in rounds, each on a Millrace of its own with GOGC unset.
const (
	openHit      = "open loop at 10,000/s, L1 hit"
	openSelect   = "open loop at 10,000/s, SQLite select"
	distinctWork = "distinct keys from 64 callers"

	openLimit     = 10 * time.Millisecond // of p95
	distinctLimit = 150e6                 // bytes resident
	distinctMost  = 1_000_000             // keys of one piece of the run
)

// openLoop measures the two open loops that match.
func (r *run) openLoop(ctx context.Context, only *regexp.Regexp, d time.Duration) (lines []line, bars []bar, err error) {
	for _, pair := range [][2]string{{openHit, hitLegacy}, {openSelect, liteWork + string(legacy)}} {
		name, like := pair[0], pair[1]
		if only != nil && !only.MatchString(name) {
			continue
		}
		w := model(like)
		w.name, w.gogc = name, ""
		l, err := r.connect(ctx, w)
		if err != nil {
			return nil, nil, err
		}
		if _, err := r.probe(ctx, l, 0); err != nil {
			return nil, nil, err
		}
		if _, err := r.probe(ctx, l, 20); err != nil {
			return nil, nil, err
		}
		r.progress("%s for %s", name, d)
		before, err := l.server.cpuTime()
		if err != nil {
			return nil, nil, err
		}
		res, err := r.put(ctx, l, open(d))
		if err != nil {
			return nil, nil, err
		}
		after, err := l.server.cpuTime()
		if err != nil {
			return nil, nil, err
		}
		if _, err := r.probe(ctx, l, 20); err != nil {
			return nil, nil, err
		}
		resident, _, err := l.server.memory()
		if err != nil {
			return nil, nil, err
		}
		s := sample{rate: res.Rate, p50: res.P50, p95: res.P95, p99: res.P99, cpu: float64((after - before).Microseconds()) / float64(res.Requests), resident: float64(resident)}
		lines = append(lines, line{name: "millrace, " + name, gogc: "unset", s: s})
		bars = append(bars, openBar(fmt.Sprintf("%s for %s", name, d), res))
	}
	return lines, bars, nil
}

// openBar judges an open loop: the latency, no wrong answer, and the rate itself, since a sender that falls behind
// proves nothing.
func openBar(name string, res loadResult) bar {
	b := bar{work: name, limit: "p95 < 10 ms, no errors", measured: fmt.Sprintf("p95 %.2f ms, %d errors, %.0f/s", res.P95/1000, res.Wrong, res.Rate)}
	if res.Wrong > 0 {
		b.measured += ": " + res.Errors
	}
	if res.Invalid != "" { // a late sender's delay is in the latencies: the bar is the harder to meet for it
		b.measured += "; " + res.Invalid
	}
	b.met = res.P95 < float64(openLimit.Microseconds()) && res.Wrong == 0 && res.Rate >= 0.99*openRate
	return b
}

// distinct asks for so many different keys of a cached tool and reads the memory that this leaves.
func (r *run) distinct(ctx context.Context, requests int) (line, bar, error) {
	w := model(hitLegacy)
	w.name, w.gogc, w.tool, w.text, w.cache = distinctWork, "", "number", keyMark, ""
	r.forget(w) // the open loop's server has a history
	l, err := r.connect(ctx, w)
	if err != nil {
		return line{}, bar{}, err
	}
	next, done, seconds := distinctFrom, 0, 0.0
	l.keys = keys{cycleKeys, next, 1}
	if _, err := r.probe(ctx, l, 3); err != nil {
		return line{}, bar{}, err
	}
	before, err := l.server.cpuTime()
	if err != nil {
		return line{}, bar{}, err
	}
	var last loadResult
	for done < requests {
		l.keys = keys{cycleKeys, next, distinctMost}
		const piece = 5 * time.Second
		if last, err = r.put(ctx, l, closed(piece)); err != nil {
			return line{}, bar{}, fmt.Errorf("%s: %w", distinctWork, err)
		}
		if last.Wrong > 0 || last.Requests > distinctMost {
			return line{}, bar{}, fmt.Errorf("%s: errors: %s; %d requests in %s", distinctWork, last.Errors, last.Requests, piece)
		}
		done += last.Requests
		seconds += piece.Seconds()
		next += last.Requests + 2*connections // what was under way at the end has used keys too
		r.progress("%s: %d of %d", distinctWork, done, requests)
	}
	after, err := l.server.cpuTime()
	if err != nil {
		return line{}, bar{}, err
	}
	resident, peak, err := l.server.memory()
	if err != nil {
		return line{}, bar{}, err
	}
	l.keys = keys{cycleKeys, next, 1}
	if _, err := r.probe(ctx, l, 20); err != nil {
		return line{}, bar{}, err
	}
	name := fmt.Sprintf("%d requests on %s", done, distinctWork)
	s := sample{rate: float64(done) / seconds, p50: last.P50, p95: last.P95, p99: last.P99, cpu: float64((after - before).Microseconds()) / float64(done), resident: float64(resident)}
	b := bar{name, "< 150 MB resident", fmt.Sprintf("%.0f MB, peak %.0f MB", float64(resident)/1e6, float64(peak)/1e6), float64(peak) < distinctLimit}
	return line{name: "millrace, " + name, gogc: "unset", s: s}, b, nil
}

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// run is one run of the whole table.
type run struct {
	m        *machine
	rounds   int
	duration time.Duration
	progress func(format string, args ...any)

	millrace string // the binary; empty: peers and floor alone
	sqlite   string
	postgres string // URL; empty when no work needs it
	redis    string // address; empty when no work needs it
	kept     string // SQLite file of the cache's third level; empty for none

	servers  map[string]*process
	sessions map[string]string // legacy session of each server, by the same name
	sizes    map[string]int    // length of an answer's body, by the Millrace work's name
	loads    int               // runs of load tools so far: one of wrk has request ids of its own, one of millrace load a file
	probes   int
}

// live is a work whose server runs.
type live struct {
	work
	server  *process
	req     request
	check   checkFunc
	samples []sample
}

// serverName is the same for works that share a server.
func (r *run) serverName(w work) string {
	name := w.kind + "-" + w.gogc
	switch w.kind {
	case kindFloor:
		name += "-" + strconv.Itoa(r.sizes[w.floorOf])
	case kindGoSDK, kindMCPGo:
		name += "-" + string(w.era)
	}
	return name
}

// forget ends the server of a work, so that the next one to need it starts it anew.
func (r *run) forget(w work) {
	name := r.serverName(w)
	if p := r.servers[name]; p != nil {
		p.stop()
		delete(r.servers, name)
		delete(r.sessions, name)
	}
}

// server starts the server of a work once and returns it ever after.
func (r *run) server(ctx context.Context, w work) (*process, error) {
	name := r.serverName(w)
	if p := r.servers[name]; p != nil {
		return p, nil
	}
	var p *process
	var err error
	if w.kind == kindMillrace || w.kind == kindKeyed {
		p, err = r.startMillrace(ctx, name, w.gogc, w.kind == kindKeyed)
	} else {
		p, err = r.startSelf(ctx, name, w)
	}
	if err != nil {
		return nil, err
	}
	r.servers[name] = p
	return p, nil
}

// startSelf starts this program as the floor or as a peer.
func (r *run) startSelf(ctx context.Context, name string, w work) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	argv := []string{self, "serve-" + w.kind, "--addr", addr, "--era", string(w.era), "--db", r.sqlite, "--size", strconv.Itoa(r.sizes[w.floorOf])}
	return r.m.start(ctx, name, addr, argv, startOptions{gogc: w.gogc, dir: r.m.dir, ready: listening(addr)})
}

// connect starts a work's server and makes its request.
func (r *run) connect(ctx context.Context, w work) (*live, error) {
	p, err := r.server(ctx, w)
	if err != nil {
		return nil, err
	}
	l := &live{work: w, server: p, check: checkCall(w.text, w.cache)}
	var auth [][2]string
	if w.kind == kindKeyed {
		auth = [][2]string{{"Authorization", "Bearer " + apiKey}}
	}
	session := ""
	switch {
	case w.kind == kindFloor:
		l.check = checkLength(r.sizes[w.floorOf])
		session = floorSession
	case w.era == legacy:
		if session = r.sessions[p.name]; session == "" {
			if session, err = openSession(ctx, p.addr, auth...); err != nil {
				return nil, fmt.Errorf("%s: %w", w.id(), err)
			}
			r.sessions[p.name] = session
		}
	}
	l.req = toolCall(w.era, p.addr, session, w.tool, w.args)
	for _, h := range auth {
		l.req = l.req.with(h[0], h[1])
	}
	return l, nil
}

// probe sends n checked requests, or one for every key that cycles when n is 0 (to fill a cache: the cache status of
// those is not judged). It returns the last answer.
func (r *run) probe(ctx context.Context, l *live, n int) (answer, error) {
	p, err := dial(ctx, l.server.addr)
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", l.id(), err)
	}
	defer p.close()
	check := l.check
	if n == 0 {
		if l.keys.mode != cycleKeys || l.kind == kindFloor {
			return answer{}, nil
		}
		n, check = l.keys.count, checkCall(l.text, "")
	}
	var a answer
	for i := range n {
		r.probes++
		id, key := probeID+r.probes, l.keys.first+(i*l.stride(n))%l.keys.count
		if a, err = p.send(l.req.render(id, key)); err != nil {
			return a, fmt.Errorf("%s: %w", l.id(), err)
		}
		if err := check(id, key, a); err != nil {
			return a, fmt.Errorf("%s: wrong answer: %w", l.id(), err)
		}
	}
	return a, nil
}

// stride spreads n probes over all keys.
func (l *live) stride(n int) int { return max(1, l.keys.count/n) }

// measure is one round of one work: probes, load, probes.
func (r *run) measure(ctx context.Context, l *live, d time.Duration) (sample, error) {
	if _, err := r.probe(ctx, l, 0); err != nil {
		return sample{}, err
	}
	if _, err := r.probe(ctx, l, 3); err != nil {
		return sample{}, err
	}
	cpu, err := l.server.cpuTime()
	if err != nil {
		return sample{}, err
	}
	res, err := r.put(ctx, l, closed(d))
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", l.id(), err)
	}
	if res.Wrong > 0 || res.Invalid != "" {
		return sample{}, fmt.Errorf("%s: errors: %s; %s", l.id(), res.Errors, res.Invalid)
	}
	after, err := l.server.cpuTime()
	if err != nil {
		return sample{}, err
	}
	resident, _, err := l.server.memory()
	if err != nil {
		return sample{}, err
	}
	if _, err := r.probe(ctx, l, 20); err != nil {
		return sample{}, err
	}
	return sample{res.Rate, res.P50, res.P95, res.P99, float64((after - cpu).Nanoseconds()) / 1000 / float64(res.Requests), float64(resident)}, nil
}

// closedLoop measures all works in interleaved rounds and returns them, floors first, in the order of the table.
func (r *run) closedLoop(ctx context.Context, works []work) ([]*live, error) {
	var tools, floors []*live
	for _, w := range works {
		l, err := r.connect(ctx, w)
		if err != nil {
			return nil, err
		}
		tools = append(tools, l)
	}
	seen := map[string]bool{}
	for _, w := range works {
		f := model(w.floorOf)
		if err := r.learnSize(ctx, f); err != nil {
			return nil, err
		}
		f.kind, f.gogc, f.limit = kindFloor, w.gogc, 0
		f.name = fmt.Sprintf("floor, %d B, %s", r.sizes[f.floorOf], f.era)
		if key := f.floorOf + f.gogc; seen[key] {
			continue
		} else {
			seen[key] = true
		}
		l, err := r.connect(ctx, f)
		if err != nil {
			return nil, err
		}
		floors = append(floors, l)
	}
	all := append(floors, tools...)
	order := besideFloor(all)
	for round := range r.rounds + 1 { // the first one warms up and is not kept
		d := r.duration
		if round == 0 {
			d = time.Second
		}
		slices.Reverse(order) // what is slow to change on the machine falls on both sides alike
		for _, l := range order {
			s, err := r.measure(ctx, l, d)
			if err != nil {
				return nil, err
			}
			if round == 0 {
				continue
			}
			l.samples = append(l.samples, s)
			r.progress("round %d/%d  %-55s %8.0f/s  p95 %6.2f ms  CPU %6.1f µs", round, r.rounds, l.id(), s.rate, s.p95/1000, s.cpu)
		}
	}
	return all, nil
}

// besideFloor orders works so that each is measured right after the floor it is divided by, a work with a key right
// after the same without.
func besideFloor(all []*live) []*live {
	var order []*live
	for _, f := range all {
		if f.kind != kindFloor {
			continue
		}
		order = append(order, f)
		for _, l := range all {
			if l.kind != kindFloor && l.floorOf == f.floorOf && l.gogc == f.gogc {
				order = append(order, l)
			}
		}
	}
	return order
}

// learnSize asks Millrace how long its answer is, once for each work that has a floor.
func (r *run) learnSize(ctx context.Context, w work) error {
	if r.sizes[w.floorOf] != 0 {
		return nil
	}
	if r.millrace == "" {
		r.sizes[w.floorOf] = w.least
		return nil
	}
	l, err := r.connect(ctx, w)
	if err != nil {
		return err
	}
	if _, err := r.probe(ctx, l, 0); err != nil {
		return err
	}
	a, err := r.probe(ctx, l, 1)
	if err != nil {
		return err
	}
	r.sizes[w.floorOf] = len(a.body)
	return nil
}

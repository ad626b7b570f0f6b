package sqldb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/conf"
)

// Part is one of several statements that a Query runs as one.
type Part struct {
	Name string
	Text string // with parameters of the Spec, each of which at least one part uses
}

// spec gives the Spec of one part. The parts share max_bytes evenly, whichever comes first: what is cut does not depend on how fast
// each is.
func (p Part) spec(all *Spec) Spec {
	own := *all
	own.Name, own.Text, own.Parts, own.Snapshot = all.Name+"."+p.Name, p.Text, nil, false
	own.Params = slices.Clone(all.Params)
	for i := range own.Params {
		own.Params[i].Unused = true
	}
	if all.MaxBytes > 0 {
		own.MaxBytes = max(all.MaxBytes/len(all.Parts), 1)
	}
	return own
}

// compileParts compiles each part by compile. Everything that is wrong with them is reported at once.
func compileParts[Q Query](all *Spec, d dialect, compile func(Spec) (Q, error)) ([]Q, error) {
	var fs conf.Faults
	if all.Mode != ReadOnly {
		fs = append(fs, conf.Fault{Path: "statements", Message: "go with read-only tools only: a write is one statement, in a transaction of its own",
			Fix: "add annotations: {readOnlyHint: true}, or write one statement"})
	}
	used := make([]bool, len(all.Params))
	for _, p := range all.Parts {
		own := p.spec(all)
		st, faults := parse(p.Text, d, own.Params, ReadOnly)
		for _, f := range faults {
			f.Path = conf.Key("statements", p.Name)
			fs = append(fs, f)
		}
		for _, i := range st.binds {
			used[i] = true
		}
	}
	for i, q := range all.Params {
		if !used[i] && !q.Unused && len(fs) == 0 {
			fs = append(fs, conf.Fault{Path: conf.Index("parameters", i), Message: fmt.Sprintf("no statement uses %q", q.Name),
				Fix: "use :" + q.Name + " in one of them, or remove the parameter"})
		}
	}
	if err := fs.Err(); err != nil {
		return nil, err
	}
	out := make([]Q, len(all.Parts))
	for i, p := range all.Parts {
		var err error
		if out[i], err = compile(p.spec(all)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// partsQuery runs its parts side by side, each as a statement of its own, most of them at a time.
type partsQuery struct {
	names []string
	parts []Query
	most  int
}

func newParts(all *Spec, d dialect, most int, compile func(Spec) (Query, error)) (Query, error) {
	parts, err := compileParts(all, d, compile)
	if err != nil {
		return nil, err
	}
	return &partsQuery{partNames(all), parts, most}, nil
}

func partNames(all *Spec) []string {
	names := make([]string, len(all.Parts))
	for i, p := range all.Parts {
		names[i] = p.Name
	}
	return names
}

// partResult is what one part gave.
type partResult struct {
	out     []byte
	outcome Outcome
}

// Run implements Query. One part that fails fails the whole, and ends the others.
func (q *partsQuery) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	own := x.together()
	results := make([]partResult, len(q.parts))
	err := sideBySide(ctx, len(q.parts), q.most, func(ctx context.Context, next func() (int, bool)) error {
		for i, ok := next(); ok; i, ok = next() {
			run := *own
			var err error
			if results[i].out, results[i].outcome, err = q.parts[i].Run(ctx, nil, &run); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return dst, Outcome{}, err
	}
	out, outcome := joinParts(dst, q.names, results)
	return out, outcome, nil
}

// Describe implements Query: a column for each part.
func (q *partsQuery) Describe(ctx context.Context) ([]Column, error) {
	return describeParts(ctx, q.names, q.parts)
}

func describeParts[Q Query](ctx context.Context, names []string, parts []Q) ([]Column, error) {
	columns := make([]Column, len(parts))
	for i := range parts {
		of, err := parts[i].Describe(ctx)
		if err != nil {
			return nil, err
		}
		columns[i] = Column{Name: names[i], Part: of}
	}
	return columns, nil
}

// together gives the execution that several statements of one run share: they have one time, and tell what they tell one after the other.
func (x *Execution) together() *Execution {
	own := *x
	if own.began.IsZero() {
		own.began = time.Now()
	}
	var mu sync.Mutex
	if tell := x.Progress; tell != nil {
		var all int64 // guarded by mu
		own.Progress = func(int64) {
			mu.Lock()
			defer mu.Unlock()
			all += progressEvery
			tell(all)
		}
	}
	if tell := x.Notice; tell != nil {
		own.Notice = func(severity, message string) {
			mu.Lock()
			defer mu.Unlock()
			tell(severity, message)
		}
	}
	return &own
}

// sideBySide lets most workers at once take numbers below n from next until there is none. The first error or panic of one ends ctx for
// all, and is what comes of it when all have ended; the caller's goroutine is one of them, and begins at once.
func sideBySide(ctx context.Context, n, most int, work func(ctx context.Context, next func() (int, bool)) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var taken atomic.Int64
	next := func() (int, bool) {
		i := int(taken.Add(1)) - 1
		return i, i < n && ctx.Err() == nil
	}
	var mu sync.Mutex // guards what follows
	var failed error
	var panicked any
	guarded := func() {
		defer func() {
			if p := recover(); p != nil {
				cancel()
				mu.Lock()
				defer mu.Unlock()
				panicked = p
			}
		}()
		if err := work(ctx, next); err != nil {
			mu.Lock()
			defer mu.Unlock()
			if failed == nil || errors.Is(failed, context.Canceled) { // by another that failed, and is later to say so
				failed = err
			}
			cancel()
		}
	}
	var others sync.WaitGroup
	for range min(n, most) - 1 {
		others.Go(guarded)
	}
	guarded()
	others.Wait()
	if panicked != nil {
		panic(panicked)
	}
	if failed == nil { // the caller's own end keeps workers from what is left
		failed = ctx.Err()
	}
	return failed
}

// joinParts appends the results as one object, in the parts' order.
func joinParts(dst []byte, names []string, results []partResult) ([]byte, Outcome) {
	all := Outcome{Replica: results[0].outcome.Replica}
	size := 2
	for i, r := range results {
		size += len(names[i]) + len(r.out) + 4
	}
	dst = slices.Grow(dst, size)
	for i, r := range results {
		dst = append(dst, columnPrefix(i, names[i])...)
		dst = append(dst, r.out...)
		all.Rows += r.outcome.Rows
		all.Truncated = all.Truncated || r.outcome.Truncated
	}
	return append(dst, '}'), all
}

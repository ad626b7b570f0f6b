package sqldb

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

func (o *poolOpener) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.open
}

// takes takes n connections.
func (p *pool[C]) takes(t *testing.T, n int) (taken []C) {
	t.Helper()
	for range n {
		c, err := p.get(t.Context(), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, c)
	}
	return taken
}

func keptPool(o *poolOpener, cfg PoolConfig, check func(*poolConn) error) *pool[*poolConn] {
	p := newPool("test", "primary", cfg, o.new)
	p.check = check
	p.keep()
	return p
}

// Connections are opened before anybody needs them, and again when somebody has taken them.
func TestPoolKeepsSomeIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &poolOpener{takes: time.Millisecond}
		p := keptPool(o, PoolConfig{Size: 4, Overflow: 1, MinIdle: 3, Wait: conf.Duration(time.Second)}, nil)
		defer p.close()
		time.Sleep(keepEvery)
		if s := p.stats(); s.Open != 3 || s.Idle != 3 {
			t.Fatalf("%d are open and %d idle, want 3", s.Open, s.Idle)
		}
		taken := p.takes(t, 2)
		time.Sleep(2 * keepEvery)
		if s := p.stats(); s.Open != 4 || s.Idle != 2 { // and no more than size for their sake
			t.Errorf("%d are open and %d idle, want 4 and 2", s.Open, s.Idle)
		}
		for _, c := range taken {
			p.put(c, false)
		}
	})
}

// A connection is closed when its life is over: idle, or put back. Not all of them at once.
func TestPoolConnectionsDoNotLiveForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = 100 * time.Second
		o := &poolOpener{takes: time.Millisecond}
		p := keptPool(o, PoolConfig{Size: 20, Wait: conf.Duration(time.Second), Lifetime: conf.Duration(life)}, nil)
		defer p.close()
		taken := p.takes(t, 20)
		var ends []time.Time
		for _, c := range taken {
			if left := time.Until(c.until); left > life || left < life*9/10-time.Second {
				t.Errorf("one lives for %s", left)
			}
			ends = append(ends, c.until)
		}
		if first, last := slices.MinFunc(ends, time.Time.Compare), slices.MaxFunc(ends, time.Time.Compare); last.Sub(first) < life/100 {
			t.Errorf("all end within %s", last.Sub(first))
		}
		for _, c := range taken[1:] {
			p.put(c, false)
		}
		time.Sleep(life * 8 / 10)
		if o.count() != 20 {
			t.Errorf("%d are open before their time is over, want 20", o.count())
		}
		time.Sleep(life / 4)
		if o.count() != 1 {
			t.Errorf("%d are open after it, want the one that is in use", o.count())
		}
		p.put(taken[0], false)
		if o.count() != 0 {
			t.Error("it was kept when it was put back")
		}
	})
}

// An idle connection that has died is found before a call gets it.
func TestPoolAsksIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &poolOpener{takes: time.Millisecond}
		var mu sync.Mutex
		dead := map[*poolConn]bool{}
		p := keptPool(o, PoolConfig{Size: 4, Wait: conf.Duration(time.Second)}, func(c *poolConn) error {
			mu.Lock()
			defer mu.Unlock()
			if dead[c] {
				return errors.New("dead")
			}
			return nil
		})
		defer p.close()
		taken := p.takes(t, 3)
		a, b, busy := taken[0], taken[1], taken[2]
		mu.Lock()
		dead[a], dead[busy] = true, true
		mu.Unlock()
		p.put(a, false)
		p.put(b, false)
		time.Sleep(keepEvery * (healthEvery + 1))
		if s := p.stats(); s.Open != 2 || s.Idle != 1 {
			t.Errorf("%d are open and %d idle, want 2 and 1", s.Open, s.Idle)
		}
		p.put(busy, false)
	})
}

// So many writes at a time, and the others are told why they do not run.
func TestWriteGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.Writes = 2
		g := newWriteGate("shop", cfg)
		var mu sync.Mutex
		running, most := 0, 0
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := g.enter(t.Context(), time.Now().Add(time.Hour)); err != nil {
					t.Error(err)
					return
				}
				defer g.leave()
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
				mu.Lock()
				running--
				mu.Unlock()
			})
		}
		wg.Wait()
		if most != 2 || g.waiting.Load() != 0 {
			t.Errorf("%d ran at a time, want 2; %d wait after the end", most, g.waiting.Load())
		}
		for range 2 {
			if err := g.enter(t.Context(), time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		err := g.enter(t.Context(), began.Add(time.Hour))
		toolError(t, err, kindOverloaded)
		if took := time.Since(began); took != cfg.Pool.Wait.Std() || !strings.Contains(err.Error(), "2 writes run already (write_concurrency)") {
			t.Errorf("after %s: %v", took, err)
		}
		began = time.Now()
		if err := g.enter(t.Context(), began.Add(time.Second)); err == nil || time.Since(began) != time.Second {
			t.Errorf("%v after %s, with a second of time", err, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.enter(ctx, began.Add(time.Hour)); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// Writes that wait leave the connections to reads.
func TestWritesLeaveConnectionsToReads(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "CREATE TABLE n (i int); INSERT INTO n VALUES (1)", func(c *Config) {
		c.Writes, c.Pool.Size, c.Pool.Overflow, c.Pool.Wait = 1, 2, 0, conf.Duration(100*time.Millisecond)
	})
	write := pgCompile(t, s, ReadWrite, "UPDATE n SET i = i + 1", 0)
	held, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, _, err := write.Run(context.Background(), nil, &Execution{Confirm: func(int64) bool {
			close(held)
			<-release
			return true
		}})
		done <- err
	}()
	<-held
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			_, _, err := write.Run(t.Context(), nil, &Execution{})
			toolError(t, err, kindOverloaded)
			if err != nil && !strings.Contains(err.Error(), "write_concurrency") {
				t.Error(err)
			}
		})
	}
	if out, _, err := pgRun(t, s, ReadOnly, "SELECT i FROM n"); err != nil || out != `{"rows":[{"i":1}]}` {
		t.Errorf("a read beside writes that wait: %s, %v", out, err)
	}
	wg.Wait()
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if out, _, err := pgRun(t, s, ReadWrite, "UPDATE n SET i = i RETURNING i"); err != nil || out != `{"rows":[{"i":2}]}` {
		t.Errorf("afterwards: %s, %v", out, err)
	}
}

// Five hundred callers never have more than size and overflow connections; those who cannot be served in time are told so.
func TestFiveHundredCallers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		wait   time.Duration
		sleep  string
		served func(n int) bool
	}{
		{"all are served", 30 * time.Second, "0.01", func(n int) bool { return n == 500 }},
		{"the others are refused", 200 * time.Millisecond, "4", func(n int) bool { return n >= 1 && n <= 60 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, name := postgres(t, "", func(cfg *Config) {
				cfg.Pool.Wait, cfg.QueryTimeout = conf.Duration(c.wait), conf.Duration(30*time.Second)
			})
			q := pgCompile(t, s, ReadOnly, "SELECT pg_sleep("+c.sleep+") IS NULL AS v", 0)
			watched, stop := context.WithCancel(t.Context())
			var watch, wg sync.WaitGroup
			most := 0
			watch.Go(func() {
				cfg := DefaultConfig()
				cfg.Postgres, cfg.Pool, cfg.QueryTimeout = s.cfg.Postgres, PoolConfig{Size: 1, Wait: conf.Duration(time.Minute)}, conf.Duration(time.Minute)
				other, err := New("watch", cfg, s.log)
				if err != nil {
					t.Error(err)
					return
				}
				defer other.Close()
				q, err := other.Compile(Spec{Name: "watch", Text: "SELECT 1 AS v FROM pg_stat_activity WHERE datname = '" + name + "' AND pid <> pg_backend_pid()"})
				if err != nil {
					t.Error(err)
					return
				}
				for watched.Err() == nil {
					_, outcome, err := q.Run(context.Background(), nil, &Execution{})
					if err != nil {
						t.Error(err)
						return
					}
					most = max(most, int(outcome.Rows))
				}
			})
			var mu sync.Mutex
			served := 0
			for range 500 {
				wg.Go(func() {
					_, _, err := q.Run(t.Context(), nil, &Execution{})
					mu.Lock()
					defer mu.Unlock()
					var refused *mcp.ToolError
					switch {
					case err == nil:
						served++
					case !errors.As(err, &refused) || refused.Kind != kindOverloaded || !strings.Contains(string(refused.Meta), "retryAfterMs"):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			stop()
			watch.Wait()
			if !c.served(served) || most > 60 || most == 0 {
				t.Errorf("%d were served on up to %d connections", served, most)
			}
		})
	}
}

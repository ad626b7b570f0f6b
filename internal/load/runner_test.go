package load

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/mcp"
)

func answer(result string) func(http.ResponseWriter, *http.Request, *mcp.Request) string {
	return func(http.ResponseWriter, *http.Request, *mcp.Request) string { return result }
}

// Each request of each phase is made once and counted once, over every transport and revision.
func TestRunCountsWhatTheServerSaw(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Scenario){
		"modern":        func(*Scenario) {},
		"legacy":        func(s *Scenario) { s.Revisions = map[string]float64{"2025-06-18": 1} },
		"mixed":         func(s *Scenario) { s.Revisions = map[string]float64{"2025-11-25": 1, "2026-07-28": 3} },
		"http/2":        func(s *Scenario) { s.HTTP2 = true },
		"no keep-alive": func(s *Scenario) { s.KeepAlive = false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			simulate(t, answer(right), func(t *testing.T, srv *server) {
				s := scenario(PhaseConfig{Name: "up", Kind: "ramp", Duration: seconds(0.5), Rate: 200},
					PhaseConfig{Name: "users", Kind: "sustain", Duration: seconds(0.3), Users: 3, Think: seconds(0.01)},
					PhaseConfig{Name: "waves", Kind: "burst", Duration: seconds(0.5), Rate: 100, Burst: Burst{Factor: 3, For: seconds(0.1), Every: seconds(0.25)}},
					PhaseConfig{Name: "end", Kind: "cool-down", Duration: seconds(0.2), Rate: 50})
				change(s)
				run := execute(t, t.Context(), srv, s)
				var names []string
				total, intervals, heat, blocks := int64(0), int64(0), int64(0), int64(0)
				for _, p := range run.Phases {
					names = append(names, p.Name)
					total += p.Done
					if p.Failed() != 0 || p.Offered != p.Done || p.Latency.Count != p.Done {
						t.Errorf("phase %s: %+v, latency of %d", p.Name, p.Counts, p.Latency.Count)
					}
					for _, b := range p.Operations[0].Blocks {
						blocks += b.Done
					}
				}
				if got := strings.Join(names, " "); got != "up users waves waves spikes end" {
					t.Errorf("phases %s", got)
				}
				// Areas below the rates: 200·0.5/2, (0.15+0.15)·100 and 0.2·300, 0.2·50.
				for i, want := range map[int]int64{0: 50, 2: 30, 3: 60, 4: 10} {
					if got := run.Phases[i].Done; got != want {
						t.Errorf("phase %s: %d requests, want %d", names[i], got, want)
					}
				}
				for _, i := range run.Intervals {
					intervals += i.Done
					for _, n := range i.Heat {
						heat += n
					}
				}
				if n := int64(srv.count("tools/call")); n != total || intervals != total || heat != total || blocks != total {
					t.Errorf("the server saw %d calls; phases have %d, intervals %d, their heat %d, blocks %d", n, total, intervals, heat, blocks)
				}
				if len(run.Invalid) > 0 || run.Interrupted || run.RoundTrip.Count == 0 || run.Target.Name != "probe" {
					t.Errorf("%v, %v, round trips %d, %+v", run.Invalid, run.Interrupted, run.RoundTrip.Count, run.Target)
				}
			})
		})
	}
}

// The same seed asks for the same things in the same order.
func TestSeed(t *testing.T) {
	t.Parallel()
	asked := func(seed uint64) (asked string) {
		simulate(t, answer(right), func(t *testing.T, srv *server) {
			s := scenario(PhaseConfig{Kind: "sustain", Duration: seconds(0.2), Rate: 200})
			s.Seed, s.MaxInFlight, s.Sessions = seed, 1, 1
			execute(t, t.Context(), srv, s)
			var out []string
			for _, b := range srv.asked() {
				if i := strings.Index(b, `"arguments":`); i >= 0 {
					out = append(out, b[i:i+20])
				}
			}
			asked = strings.Join(out, " ")
		})
		return asked
	}
	if a, b, c := asked(1), asked(1), asked(2); a != b || a == c || len(a) < 40*20 {
		t.Errorf("seed 1: %s\nseed 1: %s\nseed 2: %s", a, b, c)
	}
}

// In an open loop a stall is in the latency of every request that was due in it, whether it could be sent or not.
func TestStall(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]int{"all are sent": 2000, "most have to wait": 8} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var began time.Time
			stalls := func(http.ResponseWriter, *http.Request, *mcp.Request) string {
				if began.IsZero() {
					began = time.Now()
				}
				if d := time.Until(began.Add(2 * time.Second)); d < time.Second && d > 0 {
					time.Sleep(d)
				}
				return right
			}
			simulate(t, stalls, func(t *testing.T, srv *server) {
				s := scenario(PhaseConfig{Kind: "sustain", Duration: seconds(4), Rate: 250})
				s.MaxInFlight = most
				run := execute(t, t.Context(), srv, s)
				// A quarter of the requests was due in the stall, evenly: those have what was left of it, 0 to 1 s. Of all
				// requests 1 % took longer than 1 s - 4·1 %, 5 % than 1 s - 4·5 %, and half took no time at all.
				l := run.Phases[0].Latency
				for _, q := range []struct{ got, want float64 }{{l.P50, 0}, {l.P90, 0.6}, {l.P95, 0.8}, {l.P99, 0.96}, {l.P999, 0.996}} {
					if math.Abs(q.got-q.want) > 0.008 {
						t.Errorf("a latency of %.4f, where %.4f is right: %+v", q.got, q.want, l)
					}
				}
				if waited := run.Generator.Blocked; l.Count != 1000 || waited != map[bool]int64{false: 0, true: 250 - 8}[most == 8] {
					t.Errorf("%d requests, of which %d had to wait for others, with at most %d in flight", l.Count, waited, most)
				}
				blocks := run.Phases[0].Operations[0].Blocks // of a quarter of a second
				if len(blocks) != 16 || blocks[0].Done < 55 || blocks[5].Done != 0 || blocks[6].Done != 0 || blocks[8].Done < 250 {
					t.Errorf("blocks %+v", blocks)
				}
				if run.Generator.Late > 0 || len(run.Invalid) > 0 || run.Generator.Lateness.Max > 0.001 {
					t.Errorf("the server's stall counts as the generator's: %d late, %v", run.Generator.Late, run.Invalid)
				}
			})
		})
	}
}

// What wrong answers are called.
func TestErrorsHaveKinds(t *testing.T) {
	t.Parallel()
	for want, call := range map[string]func(w http.ResponseWriter, r *http.Request, m *mcp.Request) string{
		"tool":           answer(`{"content":[],"isError":true}`),
		"wrong answer":   answer(`{"content":[],"structuredContent":{"v":"text"}}`),
		"input required": answer(`{"resultType":"input_required"}`),
		"http 503": func(w http.ResponseWriter, _ *http.Request, _ *mcp.Request) string {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return ""
		},
		"http 307": func(w http.ResponseWriter, r *http.Request, _ *mcp.Request) string {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			return ""
		},
		"rpc -32603": func(w http.ResponseWriter, _ *http.Request, m *mcp.Request) string {
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"error":{"code":-32603,"message":"x"}}`))
			return ""
		},
		"protocol": func(w http.ResponseWriter, _ *http.Request, _ *mcp.Request) string {
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"jsonrpc":"2.0","id":99999999,"result":` + right + `}`)) // another request's
			return ""
		},
		"connection": func(w http.ResponseWriter, _ *http.Request, _ *mcp.Request) string {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
			return ""
		},
		"timeout": func(_ http.ResponseWriter, r *http.Request, _ *mcp.Request) string {
			<-r.Context().Done()
			return ""
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			simulate(t, call, func(t *testing.T, srv *server) {
				s := scenario(PhaseConfig{Kind: "sustain", Duration: seconds(0.2), Rate: 50})
				s.Timeout = seconds(0.3)
				run := execute(t, t.Context(), srv, s)
				c := run.Phases[0].Counts
				if c.Errors[want] != 10 || c.Done != 0 || len(c.Errors) != 1 {
					t.Errorf("%+v, want 10 of %q", c, want)
				}
			})
		})
	}
}

// A subscription that is never confirmed is an error like any other answer that does not come.
func TestSilentSubscription(t *testing.T) {
	t.Parallel()
	simulate(t, answer(right), func(t *testing.T, srv *server) {
		s := scenario(PhaseConfig{Kind: "sustain", Duration: seconds(0.2), Rate: 50})
		s.Operations[0] = OperationConfig{Subscribe: "a://silent", Weight: 1, Hold: seconds(10)}
		s.Timeout = seconds(0.3)
		run := execute(t, t.Context(), srv, s)
		if c := run.Phases[0].Counts; c.Errors["timeout"] != 10 || c.Done != 0 || run.Seconds > 2 {
			t.Errorf("%+v in %.1f s, want 10 of timeout", c, run.Seconds)
		}
	})
}

// A server that sends without end, or far too much, costs a bounded amount of memory and time.
func TestFloods(t *testing.T) {
	t.Parallel()
	for want, kind := range map[string]string{"protocol": "application/json", "timeout": "text/event-stream"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			flood := func(w http.ResponseWriter, r *http.Request, _ *mcp.Request) string {
				w.Header().Set("Content-Type", kind)
				time.Sleep(time.Millisecond)
				part := bytes.Repeat([]byte("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n"), 100)
				for sent := 0; sent < 8<<20; sent += len(part) {
					if _, err := w.Write(part); err != nil {
						return ""
					}
					if sent%(1<<20) < len(part) {
						select {
						case <-time.After(50 * time.Millisecond):
						case <-r.Context().Done():
							return ""
						}
					}
				}
				return ""
			}
			simulate(t, flood, func(t *testing.T, srv *server) {
				s := scenario(PhaseConfig{Kind: "sustain", Duration: seconds(0.1), Rate: 30})
				s.Timeout, s.MaxAnswer = seconds(0.2), 64<<10
				run := execute(t, t.Context(), srv, s)
				if c := run.Phases[0].Counts; c.Errors[want] != 3 {
					t.Errorf("%+v, want 3 of %q", c, want)
				}
			})
		})
	}
}

// The end of its context ends a run at once, with the figures until then; also where the server hangs.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	for name, phase := range map[string]PhaseConfig{"open": {Kind: "sustain", Duration: seconds(60), Rate: 100},
		"closed": {Kind: "sustain", Duration: seconds(60), Users: 20, Think: seconds(1)}, "stress": {Kind: "stress", Duration: seconds(60), From: 100, Rate: 1000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			hangs := func(_ http.ResponseWriter, r *http.Request, _ *mcp.Request) string {
				if calls.Add(1) > 15 {
					<-r.Context().Done()
				}
				return right
			}
			simulate(t, hangs, func(t *testing.T, srv *server) {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				began := time.Now()
				run := execute(t, ctx, srv, scenario(phase))
				if took := time.Since(began); took != 3*time.Second || !run.Interrupted {
					t.Errorf("took %s, interrupted %v", took, run.Interrupted)
				}
				if p := run.Phases[0]; p.Done != 15 || p.Failed() != 0 || p.Seconds != 3 {
					t.Errorf("done %d, errors %v in %.1f s", p.Done, p.Errors, p.Seconds)
				}
			})
		})
	}
}

// A stress phase finds the rate above which the server does not keep up, and says what broke.
func TestKnee(t *testing.T) {
	t.Parallel()
	var room chan struct{}
	slow := func(http.ResponseWriter, *http.Request, *mcp.Request) string {
		room <- struct{}{}
		time.Sleep(50 * time.Millisecond) // 20 a second
		<-room
		return right
	}
	simulate(t, slow, func(t *testing.T, srv *server) {
		room = make(chan struct{}, 1) // the bubble's own
		s := scenario(PhaseConfig{Kind: "stress", Duration: seconds(20), From: 5, Rate: 100})
		run := execute(t, t.Context(), srv, s)
		if k := run.Knee; k == nil || k.Rate < 19 || k.Rate > 20.5 || k.At <= k.Rate || k.At > 1.05*k.Rate+1 || !strings.Contains(k.Broken, "p9") {
			t.Errorf("knee %+v", k)
		}
		for _, p := range run.Phases {
			if p.Kind != "step" || !strings.HasSuffix(p.Name, "/s") {
				t.Errorf("phase %+v", p)
			}
		}
	})
}

// Without operations the tools are found that only read and can be called with what their schemas say.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	simulate(t, answer(right), func(t *testing.T, srv *server) {
		s := scenario(PhaseConfig{Kind: "sustain", Duration: seconds(0.2), Rate: 100})
		s.Operations = nil
		run := execute(t, t.Context(), srv, s)
		if o := run.Phases[0].Operations; len(o) != 2 || o[0].Name != "get" || o[1].Name != "greedy" || o[0].Done+o[1].Done != 20 {
			t.Errorf("operations %+v", o)
		}
		// What looks like a name of a file is a value like any other: a server does not choose what is read here.
		if !contains(srv.asked(), `"arguments":{"a":{"file":"/no/such/file"},"b":{"file":"/no/such/file"}}`) {
			t.Error("the default and the constant were not sent as they stand")
		}
		if contains(srv.asked(), `"name":"put"`) {
			t.Error("a tool that is not said to read only was called")
		}
		for i := range 12 {
			if id := `"id":` + string(rune('0'+i)); i < 10 && contains(srv.asked(), `{`+id+`}`) != (i >= 5) {
				t.Errorf("argument %s: the schema allows 5 to 9", id)
			}
		}
		s, _ = builtIn("mixed")
		s.Phases = []PhaseConfig{{Name: "m", Kind: "sustain", Duration: seconds(0.5), Rate: 400}}
		run = execute(t, t.Context(), srv, s)
		shares := map[string]int64{}
		for _, o := range run.Phases[0].Operations {
			shares[o.Name] = o.Done
		}
		if r, c, h := shares["read a://1"], shares["get"]+shares["greedy"], shares["subscribe a://1"]; r < 120 || r > 160 || c < 25 || c > 55 || h < 8 || h > 35 {
			t.Errorf("of 200: %v", shares)
		}
	})
}

// What stands in the way of a run is said before it begins.
func TestNoRun(t *testing.T) {
	t.Parallel()
	simulate(t, answer(right), func(t *testing.T, srv *server) {
		s := scenario(PhaseConfig{Kind: "sustain", Duration: seconds(1), Rate: 10})
		other := scenario(s.Phases...)
		other.Operations[0].Tool = "none"
		good := Endpoint{URL: "http://127.0.0.1/mcp", Dial: srv.dial}
		for want, o := range map[string]Options{
			"planted": {Endpoint: Endpoint{URL: good.URL, Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("planted")
			}}, Scenario: s},
			"is not this machine":                           {Endpoint: Endpoint{URL: "http://192.0.2.1/mcp", Dial: srv.dial}, Scenario: s},
			"has no tool \"none\"; it has get, greedy, put": {Endpoint: good, Scenario: other},
			"no such": {Endpoint: good, Scenario: s, Watch: Watch{PID: 1 << 30}},
		} {
			if _, err := Execute(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
	})
}

// Connections that are opened before a run are no more than it can use.
func TestMostInFlight(t *testing.T) {
	t.Parallel()
	for want, phases := range map[int][]PhaseConfig{1: {{Users: 1}}, 7: {{Users: 2}, {Users: 7}}, 1000: {{Users: 7}, {Rate: 1}}} {
		s := DefaultScenario()
		if s.Phases = phases; s.most() != want {
			t.Errorf("%+v: %d, want %d", phases, s.most(), want)
		}
	}
}

// What a mixed load holds never takes the places of what it asks.
func TestMixedHold(t *testing.T) {
	t.Parallel()
	for rate, want := range map[float64]time.Duration{0: time.Second, 2000: time.Second, 10_000: 500 * time.Millisecond} {
		s, _ := builtIn("mixed")
		s.Scale(0, rate)
		if rate == 0 {
			s.Phases = []PhaseConfig{{Users: 5}}
		}
		if got := s.mixedHold(); got != want {
			t.Errorf("%.0f/s: %s, want %s", rate, got, want)
		}
	}
}

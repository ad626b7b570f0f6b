package admin

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

type fixed struct{ status Status }

func (f fixed) Ready() Status { return f.status }

var up = fixed{Status{Ready: true}}

func ask(h http.Handler, method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func registry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "example"}, func() float64 { return 7 }))
	return reg
}

var silent = slog.New(slog.DiscardHandler)

func TestReadiness(t *testing.T) {
	for _, c := range []struct {
		name   string
		status Status
		code   int
		body   string
	}{
		{"ready", Status{Ready: true}, 200, `{"ready":true}`},
		{"one source down", Status{Ready: true, Degraded: []string{"source shop"}}, 200, `{"ready":true,"degraded":["source shop"]}`},
		{"starting", Status{Reason: "starting"}, 503, `{"ready":false,"reason":"starting"}`},
		{"draining", Status{Reason: "draining", Degraded: []string{"source shop"}}, 503, `{"ready":false,"reason":"draining","degraded":["source shop"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, h := range []http.Handler{
				NewHandler(DefaultConfig(), fixed{c.status}, nil, registry(), silent),
				NewProbesHandler(fixed{c.status}, registry(), silent),
			} {
				if w := ask(h, "GET", "http://127.0.0.1:9090/readyz"); w.Code != c.code || w.Body.String() != c.body+"\n" {
					t.Errorf("%d %s", w.Code, w.Body)
				}
				if w := ask(h, "GET", "http://127.0.0.1:9090/healthz"); w.Code != 200 {
					t.Errorf("healthz: %d", w.Code)
				}
			}
		})
	}
}

func TestWhatIsServedWhere(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("open-sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ready := up
	open := NewHandler(DefaultConfig(), ready, nil, registry(), silent)
	locked := NewHandler(Config{Address: "0.0.0.0:9090", TokenFile: token}, ready, nil, registry(), silent)
	probes := NewProbesHandler(ready, registry(), silent)
	const right, wrong = "Bearer open-sesame", "Bearer open-sesam"
	for _, c := range []struct {
		name, path, authorization string
		h                         http.Handler
		want                      int
	}{
		{"metrics", "/metrics", "", open, 200},
		{"profiles", "/debug/pprof/", "", open, 200},
		{"a profile", "/debug/pprof/goroutine", "", open, 200},
		{"unknown", "/x", "", open, 404},
		{"probes: metrics", "/metrics", "", probes, 200},
		{"probes: profiles", "/debug/pprof/", "", probes, 404},
		{"health without token", "/healthz", "", locked, 200},
		{"readiness without token", "/readyz", "", locked, 200},
		{"metrics without token", "/metrics", "", locked, 401},
		{"metrics with another", "/metrics", wrong, locked, 401},
		{"metrics with an empty one", "/metrics", "Bearer ", locked, 401},
		{"metrics in another scheme", "/metrics", "Basic open-sesame", locked, 401},
		{"metrics with token", "/metrics", right, locked, 200},
		{"scheme in small letters", "/metrics", "bearer open-sesame", locked, 200},
		{"profiles without token", "/debug/pprof/heap", "", locked, 401},
		{"profiles with token", "/debug/pprof/heap", right, locked, 200},
		{"unknown without token", "/x", "", locked, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			var headers []string
			if c.authorization != "" {
				headers = []string{"Authorization", c.authorization}
			}
			w := ask(c.h, "GET", "http://127.0.0.1:9090"+c.path, headers...)
			if w.Code != c.want {
				t.Errorf("%d %s, want %d", w.Code, w.Body, c.want)
			}
			if c.path == "/metrics" && c.want == 200 && !strings.Contains(w.Body.String(), "example 7") {
				t.Error("the registry's metrics are missing")
			}
		})
	}

	if err := os.WriteFile(token, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w := ask(locked, "GET", "http://x/metrics", "Authorization", "Bearer "); w.Code != 500 || strings.Contains(w.Body.String(), token) {
		t.Errorf("an empty token file lets in: %d", w.Code)
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	if w := ask(locked, "GET", "http://x/metrics", "Authorization", right); w.Code != 500 || strings.Contains(w.Body.String(), token) {
		t.Errorf("a missing token file: %d %s", w.Code, w.Body)
	}
}

func TestWebPagesStayOut(t *testing.T) {
	h := NewHandler(DefaultConfig(), up, nil, registry(), silent)
	for _, path := range []string{"/healthz", "/metrics", "/debug/pprof/"} {
		if w := ask(h, "GET", "http://evil.example:9090"+path); w.Code != 403 {
			t.Errorf("rebound name, %s: %d", path, w.Code)
		}
	}
	if w := ask(h, "GET", "http://127.0.0.1:9090/metrics", "Host", "[::1]:9090"); w.Code != 200 {
		t.Errorf("[::1]: %d", w.Code)
	}
	if w := ask(h, "POST", "http://127.0.0.1:9090/debug/pprof/symbol", "Sec-Fetch-Site", "cross-site"); w.Code != 403 {
		t.Errorf("request of another site: %d", w.Code)
	}
	public := NewHandler(Config{Address: "0.0.0.0:9090", TokenFile: "x"}, up, nil, registry(), silent)
	if w := ask(public, "GET", "http://node-7:9090/healthz"); w.Code != 200 {
		t.Errorf("other listeners take every Host: %d", w.Code)
	}
}

func TestOneBrokenCollectorHidesNothing(t *testing.T) {
	reg := registry()
	reg.MustRegister(broken{})
	h := NewProbesHandler(up, reg, silent)
	if w := ask(h, "GET", "http://x/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), "example 7") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

type broken struct{}

func (broken) Describe(ch chan<- *prometheus.Desc) {
	ch <- prometheus.NewDesc("broken", "", nil, nil)
}
func (broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "", nil, nil), errors.New("broken"))
}

func TestConfigFaults(t *testing.T) {
	if f := DefaultConfig().Validate(); len(f) > 0 {
		t.Error(f)
	}
	if f := DefaultProbesConfig().Validate(); len(f) > 0 {
		t.Error(f)
	}
	for want, got := range map[string]string{
		`address: "x" is not host:port; write host:port, such as 127.0.0.1:9090`:                                                                                 Config{Address: "x"}.Validate().String(),
		`address: ":9090" can be reached by others, and there is no token; add token_file, or listen on 127.0.0.1 and give kubelets and scrapers probes.address`: Config{Address: ":9090"}.Validate().String(),
		"": Config{Address: ":9090", TokenFile: "token"}.Validate().String(),
		`address: "9091" is not host:port; write host:port, such as :9091`: ProbesConfig{Address: "9091"}.Validate().String(),
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

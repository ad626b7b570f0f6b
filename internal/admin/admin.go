// Package admin serves the operator: health, metrics, profiles and the cache's contents, on listeners of their own and never
// on the public one.
//
// It is not part of the request path. It knows how to ask whether the server is ready and reads the metrics registry; all
// that it can change is that cached results are made void.
package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"millrace/internal/front"
)

// Readiness is asked at every /readyz. It must not block.
type Readiness interface {
	// Ready tells whether requests should be sent here, and what goes with it.
	Ready() Status
}

// Status is the answer of /readyz.
type Status struct {
	// Ready is false before the start is done and while draining. A source or an upstream that is down leaves it true:
	// what does not need it is still served, and every replica would go out of rotation at once.
	Ready bool `json:"ready"`
	// Reason says why it is not ready: "starting", "draining".
	Reason string `json:"reason,omitempty"`
	// Degraded lists what is down, such as "source shop". It is for people: no error texts, which may hold addresses.
	Degraded []string `json:"degraded,omitempty"`
}

// NewHandler makes the handler of the admin listener. Where the configuration names a token file, everything but /healthz
// and /readyz asks for its token; held gives the cache that /cache shows and purges. On a loopback address Host must name
// it, since a web page could otherwise reach this listener under a rebound name of its own.
func NewHandler(cfg Config, ready Readiness, held func() Cache, metrics prometheus.Gatherer, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metricsHandler(metrics, log))
	addCache(mux, held)
	// Named one by one: importing the package also puts them on http.DefaultServeMux, which is never served.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)

	var protected http.Handler = mux
	if cfg.TokenFile != "" {
		protected = requireToken(cfg.TokenFile, mux, log)
	}
	outer := http.NewServeMux()
	addProbes(outer, ready)
	outer.Handle("/", protected)

	h := http.NewCrossOriginProtection().Handler(outer)
	if front.IsLoopback(cfg.Address) {
		h = requireLoopbackHost(h)
	}
	return h
}

// NewProbesHandler makes the handler of the probes listener: /healthz, /readyz and /metrics, without a token.
func NewProbesHandler(ready Readiness, metrics prometheus.Gatherer, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	addProbes(mux, ready)
	mux.Handle("GET /metrics", metricsHandler(metrics, log))
	return mux
}

// NewServer makes the server of either listener. It has no write time-out: a profile takes as long as was asked for.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func addProbes(mux *http.ServeMux, ready Readiness) {
	// Alive is who answers. A check of anything else here would have a kubelet restart what a restart cannot mend.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		status := ready.Ready()
		body, err := json.Marshal(status)
		if err != nil {
			panic(err) // a bool and strings
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !status.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(append(body, '\n'))
	})
}

func metricsHandler(metrics prometheus.Gatherer, log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError),
		// One broken collector must not hide all other figures.
		ErrorHandling: promhttp.ContinueOnError,
		// A scrape costs milliseconds of processor time: a crowd of scrapers waits its turn elsewhere.
		MaxRequestsInFlight: 4,
	})
}

// requireToken lets requests through that carry the file's token. The file is read at each request, so that a token can be
// changed without a restart; a file that is missing or empty lets nobody in.
func requireToken(file string, next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want, err := ReadToken(file)
		if err != nil {
			log.Error("admin token", "err", err)
			http.Error(w, "the admin token cannot be read; see the log", http.StatusInternalServerError)
			return
		}
		scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		// Hashes have one length, so the comparison tells nothing of the token's.
		a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(strings.TrimSpace(got)))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="millrace admin"`)
			http.Error(w, "this needs the admin token: Authorization: Bearer TOKEN", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ReadToken gives the token of a file, which is more than blanks.
func ReadToken(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(content))
	if token == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return token, nil
}

func requireLoopbackHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !front.LoopbackHost(r.Host) {
			http.Error(w, "Host must be localhost, 127.0.0.1 or [::1]", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

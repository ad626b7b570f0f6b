package admin

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"millrace/internal/cache"
)

// fakeCache notes what it is told.
type fakeCache struct {
	told   []string
	broken bool
}

func (f *fakeCache) Has(target string) bool { return target == "known" }

func (f *fakeCache) Purge(tags, targets []string) error {
	f.told = append(f.told, fmt.Sprint(tags, targets))
	return nil
}

func (f *fakeCache) PurgeAll() error {
	f.told = append(f.told, "all")
	if f.broken {
		return errors.New("password=secret")
	}
	return nil
}

func (f *fakeCache) Top(n int) []cache.Usage {
	return []cache.Usage{{Target: "known", Arguments: []byte(`[7]`), Hits: int64(n), Fresh: true}}
}

func TestCache(t *testing.T) {
	t.Parallel()
	f := &fakeCache{}
	h := NewHandler(DefaultConfig(), up, func() Cache { return f }, registry(), silent)
	for _, c := range []struct {
		method, path, kind, body string
		code                     int
		said, told               string
	}{
		{"POST", "/cache/purge", "application/json", `{"tags":["a"],"tools":["known"]}`, 204, "", "[a] [known]"},
		{"POST", "/cache/purge", "application/json; charset=utf-8", `{"all":true}`, 204, "", "all"},
		{"POST", "/cache/purge", "application/json", `{"tools":["unknown"],"tags":["a"]}`, 404, `"unknown"`, ""},
		{"POST", "/cache/purge", "application/json", `{}`, 400, "name tags", ""},
		{"POST", "/cache/purge", "application/json", `{"all":true,"tags":["a"]}`, 400, "nothing else", ""},
		{"POST", "/cache/purge", "application/json", `{"tags":"a"}`, 400, "body", ""},
		{"POST", "/cache/purge", "application/json", `{"tags":["` + strings.Repeat("a", mostPurgeBytes) + `"]}`, 400, "bytes", ""},
		{"POST", "/cache/purge", "application/json", `{"tags":[""` + strings.Repeat(`,""`, mostPurgeNames) + `]}`, 400, "say all", ""},
		{"POST", "/cache/purge", "text/plain", `{"all":true}`, 415, "application/json", ""},
		{"GET", "/cache/purge", "", "", 405, "", ""},
		{"GET", "/cache/top", "", "", 200, `"hits":20`, ""}, {"GET", "/cache/top?n=3", "", "", 200, `"arguments":[7],"hits":3`, ""},
		{"GET", "/cache/top?n=0", "", "", 400, "1 to", ""}, {"GET", "/cache/top?n=x", "", "", 400, "1 to", ""}, {"GET", "/cache/top?n=1001", "", "", 400, "1 to", ""},
	} {
		f.told = nil
		r := httptest.NewRequest(c.method, "http://127.0.0.1:9090"+c.path, strings.NewReader(c.body))
		if c.kind != "" {
			r.Header.Set("Content-Type", c.kind)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.said) || strings.Join(f.told, ";") != c.told {
			t.Errorf("%s %s %.80s: %d %s, told %q", c.method, c.path, c.body, w.Code, w.Body, f.told)
		}
	}
	f.broken = true
	r := httptest.NewRequest("POST", "http://127.0.0.1:9090/cache/purge", strings.NewReader(`{"all":true}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != 503 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	probes := NewProbesHandler(up, registry(), silent)
	for _, path := range []string{"/cache/top", "/cache/purge"} {
		if w := ask(probes, "GET", "http://x"+path); w.Code != 404 {
			t.Errorf("the probes' listener serves %s: %d", path, w.Code)
		}
	}
}

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// TestServersShareTheirCache: two servers, one Redis, one database. What one fetched serves the other, what one writes is
// read on the other, and when Redis is gone both go on.
func TestServersShareTheirCache(t *testing.T) {
	t.Parallel()
	_, env := harness.DemoConfig(t)
	r := harness.NewRedis(t)
	key := filepath.Join(t.TempDir(), "cache.key")
	if err := os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	config := harness.WriteConfig(t, citiesConfig+fmt.Sprintf("redis: {nodes: [%q]}\ncache: {l2: {key_file: %q}}\n", r.Addr(), key))
	if out, errs, code := harness.Run(t, env, "check", "--connect", config); code != 0 {
		t.Fatalf("check: %d %s%s", code, out, errs)
	}
	a, b := harness.Start(t, harness.Options{Config: config, Env: env}), harness.Start(t, harness.Options{Config: config, Env: env})
	city := fmt.Sprintf(`{"id":%d}`, harness.Berlin)
	leased := func(s *harness.Server) {
		t.Helper()
		harness.Eventually(t, 10*time.Second, "a hit of what writes can change", func() error {
			if status, _ := called(t, s, "get_city", city); status != "hit" {
				return fmt.Errorf("%s", status)
			}
			return nil
		})
	}
	leased(a)
	leased(b)
	metric := func(s *harness.Server, name string) string {
		t.Helper()
		_, metrics, err := s.AdminGet("/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(metrics) {
			if value, ok := strings.CutPrefix(line, name+" "); ok {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	other := harness.Berlin
	harness.Eventually(t, 10*time.Second, "a hit in Redis", func() error { // once both hold their leases
		other++
		for _, s := range []*harness.Server{a, b} {
			called(t, s, "get_city", fmt.Sprintf(`{"id":%d}`, other))
		}
		if hits := metric(b, `millrace_cache_requests_total{level="l2",result="hit"}`); hits == "" || hits == "0" {
			return fmt.Errorf("%q hits", hits)
		}
		return nil
	})
	for population := range 20 {
		writer, reader := a, b
		if population%2 == 1 {
			writer, reader = b, a
		}
		called(t, writer, "grow_city", fmt.Sprintf(`{"city":%d,"country":"DE","population":%d}`, harness.Berlin, 1000+population))
		for _, s := range []*harness.Server{reader, writer} {
			if status, rows := called(t, s, "get_city", city); !strings.Contains(rows, fmt.Sprintf(`"population":%d`, 1000+population)) {
				t.Fatalf("after %d was written: %s %s", 1000+population, status, rows)
			}
		}
	}
	if out, errs, code := harness.Run(t, nil, "cache", "purge", "--admin", a.Admin, "--tool", "get_city"); code != 0 {
		t.Errorf("purge: %d %s%s", code, out, errs)
	}
	if status, rows := called(t, b, "get_city", city); status != "miss" {
		t.Errorf("after a purge on the other server: %s %s", status, rows)
	}
	// Without Redis all is answered, from the database what writes can change.
	r.Stop()
	for population := range 3 {
		called(t, a, "grow_city", fmt.Sprintf(`{"city":%d,"country":"DE","population":%d}`, harness.Berlin, 2000+population))
		if status, rows := called(t, b, "get_city", city); !strings.Contains(rows, fmt.Sprintf(`"population":%d`, 2000+population)) {
			t.Fatalf("after %d was written without Redis: %s %s", 2000+population, status, rows)
		}
	}
	if out, errs, code := harness.Run(t, nil, "cache", "purge", "--admin", a.Admin, "--all"); code == 0 || !strings.Contains(out+errs, "Redis, or the database of cache.l3, does not answer") {
		t.Errorf("a purge that Redis was not told of: %d %s%s", code, out, errs)
	}
	r.Start()
	leased(a)
	leased(b)
	if status, rows := called(t, b, "get_city", city); !strings.Contains(rows, `"population":2002`) {
		t.Errorf("%s %s", status, rows)
	}
}

// TestRedisIsAsked: check tells where Redis does not answer.
func TestRedisIsAsked(t *testing.T) {
	t.Parallel()
	_, env := harness.DemoConfig(t)
	config := harness.WriteConfig(t, citiesConfig+fmt.Sprintf("redis: {nodes: [\"127.0.0.1:%d\"]}\n", harness.FreePort(t)))
	if out, errs, code := harness.Run(t, env, "check", "--connect", config); code != 1 || !strings.Contains(out+errs, "redis.nodes: no server answers") {
		t.Errorf("%d %s%s", code, out, errs)
	}
}

// TestRedisMistakes: what is wrong with how the servers share is said with its place.
func TestRedisMistakes(t *testing.T) {
	t.Parallel()
	_, env := harness.DemoConfig(t)
	for _, c := range []struct{ yaml, want string }{
		{"redis: {nodes: [redis]}", `redis.nodes[0]: "redis" is not host:port`},
		{"cache: {l2: {key_file: x}}", "cache.l2.key_file: is given and there is no Redis"},
		{"redis: {nodes: [\"127.0.0.1:1\"]}\ncache: {l2: {key_file: /nowhere}}", "cache.l2.key_file: open /nowhere"},
		{"redis: {nodes: [\"127.0.0.1:1\"], tls: true, ca_file: /nowhere}", "redis.ca_file: open /nowhere"},
		{"redis: {nodes: [\"127.0.0.1:1\"], prefix: \"{x}\"}", "redis.prefix"},
	} {
		out, errs, code := harness.Run(t, env, "check", harness.WriteConfig(t, citiesConfig+c.yaml+"\n"))
		if code != 1 || !strings.Contains(out+errs, c.want) {
			t.Errorf("%s: %d %s%s, want %q", c.yaml, code, out, errs, c.want)
		}
	}
}

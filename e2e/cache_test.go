package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// called calls a tool and gives its cache status and its rows as JSON.
func called(t *testing.T, s *harness.Server, tool, arguments string) (status, rows string) {
	t.Helper()
	a := harness.CallModern(t, s.URL, tool, arguments)
	if a.Field("result", "isError") == true || a.Field("error") != nil {
		t.Fatalf("%s %s: %v", tool, arguments, a)
	}
	status, _ = a.Field("result", "_meta", "millrace/cache", "status").(string)
	text, err := json.Marshal(a.Field("result", "structuredContent", "rows"))
	if err != nil {
		t.Fatal(err)
	}
	return status, string(text)
}

// TestDemoNotes writes on the demo's cached notes: whoever reads after the write sees it, and what was not written on stays.
func TestDemoNotes(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	one, other := harness.FreshCity(t), harness.FreshCity(t)
	read := func(city int, want, has string) {
		t.Helper()
		if status, rows := called(t, s, "list_notes", fmt.Sprintf(`{"city_id":%d}`, city)); status != want || !strings.Contains(rows, has) {
			t.Errorf("%s %s, want %s with %q", status, rows, want, has)
		}
	}
	for _, want := range []string{"miss", "hit"} {
		read(one, want, "[]")
		read(other, want, "[]")
	}
	called(t, s, "add_note", fmt.Sprintf(`{"city_id":%d,"text":"first"}`, one))
	read(one, "miss", "first")
	read(one, "hit", "first")
	read(other, "hit", "[]")
}

// citiesConfig reads and writes cities, with the cache told what is written.
const citiesConfig = `version: 1
sources:
  demo: {sqlite: {path: "${MILLRACE_DEMO_DB}"}}
tools:
  - name: get_city
    source: demo
    description: One city.
    statement: SELECT id, name, population FROM cities WHERE id = :id
    parameters: [{name: id, type: integer, description: id, required: true}]
    annotations: {readOnlyHint: true}
    cache: {ttl: 1h, scope: public}
  - name: largest
    source: demo
    description: The largest city of a country.
    statement: SELECT id, name, population FROM cities WHERE country = :country ORDER BY population DESC LIMIT 1
    parameters: [{name: country, type: string, description: country, required: true}]
    annotations: {readOnlyHint: true}
    cache: {ttl: 1h, scope: public, tags: ["country:{country}"]}
  - name: grow_city
    source: demo
    description: Give a city another population.
    statement: UPDATE cities SET population = :population WHERE id = :city AND country = :country RETURNING id, name, population
    parameters:
      - {name: city, type: integer, description: id, required: true}
      - {name: country, type: string, description: its country, required: true}
      - {name: population, type: integer, description: the new number, required: true}
    writes: {tool: get_city, with: {id: city}}
    invalidates: ["country:{country}"]
`

// TestWriteThrough changes rows by tools that say what they change, and asks the cache of the running server about it.
func TestWriteThrough(t *testing.T) {
	t.Parallel()
	_, env := harness.DemoConfig(t)
	config := harness.WriteConfig(t, citiesConfig)
	if out, errs, code := harness.Run(t, env, "check", "--connect", config); code != 0 {
		t.Fatalf("check: %d %s%s", code, out, errs)
	}
	s := harness.Start(t, harness.Options{Config: config, Env: env})
	city := fmt.Sprintf(`{"id":%d}`, harness.Berlin)
	read := func(tool, arguments, want, has string) {
		t.Helper()
		if status, rows := called(t, s, tool, arguments); status != want || !strings.Contains(rows, has) {
			t.Errorf("%s: %s %s, want %s with %q", tool, status, rows, want, has)
		}
	}
	for _, want := range []string{"miss", "hit"} {
		read("get_city", city, want, "Berlin")
		read("largest", `{"country":"DE"}`, want, "Berlin")
		read("largest", `{"country":"FR"}`, want, "Paris")
	}
	called(t, s, "grow_city", fmt.Sprintf(`{"city":%d,"country":"DE","population":77}`, harness.Berlin))
	read("get_city", city, "hit", `"population":77`) // the row that the write returned
	read("largest", `{"country":"DE"}`, "miss", "Hamburg")
	read("largest", `{"country":"FR"}`, "hit", "Paris")

	out, errs, code := harness.Run(t, nil, "cache", "top", "--admin", s.Admin, "--json")
	var top struct {
		Entries []struct {
			Target    string
			Arguments []any
			Hits      int
		}
	}
	if err := json.Unmarshal([]byte(out), &top); err != nil || code != 0 || len(top.Entries) != 3 || top.Entries[0].Hits != 2 {
		t.Errorf("top: %d %v %s%s", code, err, out, errs)
	}
	if out, errs, code := harness.Run(t, nil, "cache", "top", "--admin", s.Admin, "-n", "1"); code != 0 || !strings.Contains(out, "HITS") || strings.Count(out, "\n") != 2 {
		t.Errorf("top as a table: %d %s%s", code, out, errs)
	}
	for _, purge := range []struct {
		args []string
		code int
		said string
	}{
		{[]string{"--tag", "country:FR"}, 0, "void"}, {[]string{"--tool", "get_city"}, 0, "void"}, {[]string{"--tool", "no_such"}, 1, `"no_such"`},
		{nil, 1, "--tag"}, {[]string{"--all", "--tag", "x"}, 1, "--tag"},
	} {
		out, errs, code := harness.Run(t, nil, append([]string{"cache", "purge", "--admin", s.Admin}, purge.args...)...)
		if code != purge.code || !strings.Contains(out+errs, purge.said) {
			t.Errorf("purge %v: %d %s%s", purge.args, code, out, errs)
		}
	}
	read("largest", `{"country":"FR"}`, "miss", "Paris")
	read("largest", `{"country":"DE"}`, "hit", "Hamburg")
	read("get_city", city, "miss", `"population":77`)
	if out, errs, code := harness.Run(t, nil, "cache", "purge", "--admin", s.Admin, "--all"); code != 0 {
		t.Errorf("purge --all: %d %s%s", code, out, errs)
	}
	read("largest", `{"country":"DE"}`, "miss", "Hamburg")
	if _, metrics, err := s.AdminGet("/metrics"); err != nil || !strings.Contains(metrics, `millrace_cache_events_total{event="put",level="l1"} 1`) ||
		!strings.Contains(metrics, `millrace_cache_events_total{event="purge",level="l1"} 3`) {
		t.Errorf("the metrics do not tell of it: %v", err)
	}
}

// TestCacheMistakes: a configuration that cannot mean what it says is refused with the place and what to do.
func TestCacheMistakes(t *testing.T) {
	t.Parallel()
	_, env := harness.DemoConfig(t)
	for _, c := range []struct{ old, new, want string }{
		{`invalidates: ["country:{country}"]`, `invalidates: ["county:{country}"]`, `no cached tool or resource has a tag like "county:{country}"`},
		{`invalidates: ["country:{country}"]`, `invalidates: ["country:{land}"]`, `no parameter "land"`},
		{`writes: {tool: get_city`, `writes: {tool: get_town`, `there is no tool "get_town"`},
		{`writes: {tool: get_city, with: {id: city}}`, `writes: {tool: get_city, with: {}}`, `says nothing of "id"`},
		{`with: {id: city}`, `with: {id: country}`, "of type integer there and string here"},
		{`with: {id: city}`, `with: {id: city, x: city}`, "no such parameter"},
		{`RETURNING id, name, population`, `RETURNING id, name`, "selects"},
		{`cache: {ttl: 1h, scope: public, tags: ["country:{country}"]}`, `cache: {ttl: 1h, scope: public, stale_if_error: -1s}`, "is negative"},
	} {
		config := harness.WriteConfig(t, strings.Replace(citiesConfig, c.old, c.new, 1))
		out, errs, code := harness.Run(t, env, "check", "--connect", config)
		if code != 1 || !strings.Contains(out+errs, c.want) {
			t.Errorf("%s: %d %s%s, want %q", c.new, code, out, errs, c.want)
		}
	}
}

// TestStaleIfError takes the database away: what was read is served, and says that it is stale.
func TestStaleIfError(t *testing.T) {
	t.Parallel()
	pg := harness.NewPostgres(t)
	pg.Start()
	config := harness.WriteConfig(t, `version: 1
sources:
  shop: {postgres: {primary: "`+pg.URL()+`"}, pool: {wait: 1s}}
tools:
  - name: kept
    source: shop
    description: Serves on.
    statement: SELECT :id::int AS id
    parameters: [{name: id, type: integer, description: id, required: true}]
    annotations: {readOnlyHint: true}
    cache: {ttl: 1ms, stale_if_error: 1h}
`)
	s := harness.Start(t, harness.Options{Config: config})
	if status, rows := called(t, s, "kept", `{"id":1}`); status != "miss" || !strings.Contains(rows, "1") {
		t.Errorf("%s %s", status, rows)
	}
	pg.Stop()
	harness.Eventually(t, 20*time.Second, "a stale answer", func() error {
		if status, rows := called(t, s, "kept", `{"id":1}`); status != "stale" || !strings.Contains(rows, "1") {
			return fmt.Errorf("%s %s", status, rows)
		}
		return nil
	})
	a := harness.CallModern(t, s.URL, "kept", `{"id":2}`)
	if a.Field("result", "isError") != true {
		t.Errorf("what was never read cannot be served: %v", a)
	}
}

// TestCacheOutlivesTheServer ends a server and starts another on the same database of results: what many asked for is there
// before the first call, and what a write changed in between is not.
func TestCacheOutlivesTheServer(t *testing.T) {
	t.Parallel()
	_, env := harness.DemoConfig(t)
	kept := filepath.Join(t.TempDir(), "kept.db")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	config := harness.WriteConfig(t, strings.Replace(citiesConfig, "sources:\n", "cache: {l3: {source: kept}, warmup: {initial_load: 1}}\nsources:\n  kept: {sqlite: {path: \""+kept+"\"}}\n", 1))
	level := func(s *harness.Server, tool, arguments string, want int, has string) {
		t.Helper()
		a := harness.CallModern(t, s.URL, tool, arguments)
		info, _ := json.Marshal(a.Field("result", "_meta", "millrace/cache"))
		if got := a.Field("result", "_meta", "millrace/cache", "level"); fmt.Sprint(got) != fmt.Sprint(want) && (want != 0 || got != nil) || !strings.Contains(a.Message(), has) {
			t.Errorf("%s %s: %s, want level %d with %q: %v", tool, arguments, info, want, has, a)
		}
	}
	berlin, hamburg := fmt.Sprintf(`{"id":%d}`, harness.Berlin), `{"id":2911298}`
	s := harness.Start(t, harness.Options{Config: config, Env: env})
	for range 3 {
		called(t, s, "get_city", berlin)
	}
	level(s, "get_city", hamburg, 0, "Hamburg")
	level(s, "largest", `{"country":"DE"}`, 0, "Berlin")
	stop := func() {
		s.Signal(t, syscall.SIGTERM)
		if code := s.Wait(t, 20*time.Second); code != 0 {
			t.Errorf("the server ended with %d: %s", code, s.Output())
		}
	}
	stop()
	s = harness.Start(t, harness.Options{Config: config, Env: env})
	level(s, "get_city", berlin, 1, "Berlin") // loaded before it was ready
	level(s, "get_city", hamburg, 3, "Hamburg")
	level(s, "get_city", hamburg, 1, "Hamburg")
	called(t, s, "grow_city", fmt.Sprintf(`{"city":%d,"country":"DE","population":77}`, harness.Berlin))
	stop()
	s = harness.Start(t, harness.Options{Config: config, Env: env})
	level(s, "largest", `{"country":"DE"}`, 0, "Hamburg") // the write made it void
	level(s, "get_city", berlin, 1, `"population\":77`)   // and put this one
	level(s, "get_city", hamburg, 3, "Hamburg")
	if _, metrics, err := s.AdminGet("/metrics"); err != nil || !strings.Contains(metrics, `millrace_cache_requests_total{level="l3",result="hit"} 1`) ||
		!strings.Contains(metrics, `millrace_cache_entries{level="l3"}`) {
		t.Errorf("the metrics do not tell of it: %v", err)
	}
}

// TestAdminToken looks into the cache of a server whose admin listener asks for a token.
func TestAdminToken(t *testing.T) {
	t.Parallel()
	_, env := harness.DemoConfig(t)
	token, wrong := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "wrong")
	for file, text := range map[string]string{token: "open-sesame\n", wrong: "open-sesam\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := harness.Start(t, harness.Options{Env: env, Config: harness.WriteConfig(t, "admin: {token_file: \""+token+"\"}\n"+citiesConfig)})
	for _, c := range []struct {
		args []string
		code int
		said string
	}{
		{nil, 1, "401"}, {[]string{"--token-file", wrong}, 1, "401"}, {[]string{"--token-file", wrong + "x"}, 1, "no such file"}, {[]string{"--token-file", token}, 0, ""},
	} {
		for _, command := range [][]string{{"cache", "top"}, {"cache", "purge", "--all"}} {
			out, errs, code := harness.Run(t, nil, append(append(command, "--admin", s.Admin), c.args...)...)
			if code != c.code || !strings.Contains(out+errs, c.said) || strings.Contains(out+errs, "open-sesam") {
				t.Errorf("%v %v: %d %s%s", command, c.args, code, out, errs)
			}
		}
	}
}

// TestCompressedHits: a large result comes compressed, and is the same for every reader, from a miss and from hits.
func TestCompressedHits(t *testing.T) {
	t.Parallel()
	_, env := harness.DemoConfig(t)
	s := harness.Start(t, harness.Options{Env: env, Config: harness.WriteConfig(t, `version: 1
sources:
  demo: {sqlite: {path: "${MILLRACE_DEMO_DB}"}}
tools:
  - name: cities
    source: demo
    description: Many cities.
    statement: SELECT id, name FROM cities ORDER BY id LIMIT :n
    parameters: [{name: n, type: integer, description: how many, required: true}]
    annotations: {readOnlyHint: true}
    cache: {ttl: 1h}
`)})
	ask := func(encoding string) (body, coding string, size int) {
		args := []string{"-s", "-D", "-", "-X", "POST", s.URL, "-H", "Content-Type: application/json", "-H", "Accept: application/json, text/event-stream", "-H", "MCP-Protocol-Version: " + harness.Modern,
			"-H", "Mcp-Method: tools/call", "-H", "Mcp-Name: cities", "-w", "\n%{size_download}", "-d",
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"cities","arguments":{"n":900},"_meta":{"io.modelcontextprotocol/protocolVersion":"` + harness.Modern + `","io.modelcontextprotocol/clientCapabilities":{}}}}`}
		if encoding != "" {
			args = append(args, "--compressed", "-H", "Accept-Encoding: "+encoding)
		}
		out, err := exec.Command("curl", args...).Output()
		if err != nil {
			t.Fatalf("curl: %v: %s", err, out)
		}
		head, rest, _ := strings.Cut(string(out), "\r\n\r\n")
		for line := range strings.Lines(strings.ToLower(head)) {
			if value, ok := strings.CutPrefix(line, "content-encoding: "); ok {
				coding = strings.TrimSpace(value)
			}
		}
		at := strings.LastIndexByte(rest, '\n')
		if _, err := fmt.Sscan(rest[at:], &size); err != nil {
			t.Fatal(err)
		}
		return rest[:at], coding, size
	}
	rows := func(body string) string {
		from, to := strings.Index(body, `"structuredContent"`), strings.LastIndex(body, `"_meta"`)
		if from < 0 || to < from {
			t.Fatalf("no result: %.200s", body)
		}
		return body[from:to]
	}
	plain, coding, size := ask("")
	if coding != "" || len(plain) != size {
		t.Fatalf("%q, %d bytes of %d", coding, size, len(plain))
	}
	for range 3 {
		body, coding, packed := ask("gzip")
		if coding != "gzip" || packed > size/2 || rows(body) != rows(plain) || !strings.Contains(body, `"hit"`) {
			t.Errorf("%q, %d bytes for %d: %.100s", coding, packed, size, body)
		}
	}
}

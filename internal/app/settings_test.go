package app

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"millrace/internal/pgtest"
)

// Row-level security knows each caller by db_settings, and nothing that calls share shows anybody another's rows: caches, flights, shared
// round trips, completions.
func TestRowSecurity(t *testing.T) {
	t.Parallel()
	pg, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	if err := pg.Exec("postgres", `CREATE TABLE notes (tenant text NOT NULL, owner text NOT NULL, body text NOT NULL);
		INSERT INTO notes SELECT t, t || u, 'of ' || t || u || ' ' || n FROM unnest('{a,b}'::text[]) AS t, unnest('{1,2}'::text[]) AS u, generate_series(1, 3) AS n;
		ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
		CREATE POLICY by_tenant ON notes USING (tenant = current_setting('app.tenant'));
		CREATE ROLE shop_app; GRANT SELECT, INSERT ON notes TO shop_app`); err != nil {
		t.Fatal(err)
	}
	var keys strings.Builder
	people := []struct{ tenant, name string }{{"a", "a1"}, {"a", "a2"}, {"b", "b1"}, {"b", "b2"}}
	secret := func(name string) string { return "a-long-and-secret-key-of-" + name }
	for _, p := range people {
		fmt.Fprintf(&keys, "    - {name: %s, tenant: %s, sha256: %x}\n", p.name, p.tenant, sha256.Sum256([]byte(secret(p.name))))
	}
	const read = "annotations: {readOnlyHint: true}"
	text := "auth:\n  keys:\n" + keys.String() + `
tools:
  - {name: shared, source: shop, description: A tenant's., statement: "SELECT body FROM notes WHERE body LIKE '%' || :n ORDER BY body", parameters: [{name: n, type: string, required: true}], ` + read + `, cache: {scope: tenant, ttl: 10ms}}
  - {name: plain, source: shop, description: A tenant's., statement: "SELECT body FROM notes WHERE body LIKE '%' || :n ORDER BY body", parameters: [{name: n, type: string, required: true}], ` + read + `, hints: {enable_seqscan: off, work_mem: 1MB}}
  - {name: mine, source: own, description: A caller's., statement: "SELECT body FROM notes WHERE owner = current_setting('app.user') AND body LIKE '%' || :n ORDER BY body", parameters: [{name: n, type: string, required: true}], ` + read + `, cache: {ttl: 10ms}}
  - {name: add, source: shop, description: Adds one., statement: "INSERT INTO notes VALUES (:tenant, 'x', 'x 0')", parameters: [{name: tenant, type: string, required: true}]}
resources:
  - {uriTemplate: "note://{n}", name: note, source: shop, statement: "SELECT body FROM notes WHERE body LIKE '%' || :n ORDER BY body", cache: {scope: tenant, ttl: 10ms}}
prompts:
  - {name: ask, messages: [{role: user, text: "{body}"}], arguments: [{name: body, complete: {source: shop, statement: "SELECT body FROM notes WHERE body LIKE '%' || :value ORDER BY body"}}]}
`
	r := start(t, text, func(o *Options) {
		data, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		of := func(name, more string) string {
			return fmt.Sprintf("  %s: {postgres: {primary: %q}, pool: {size: 4, overflow: 0}, query_timeout: 60s%s}\n", name, pg.URL("postgres"), more)
		}
		sources := "sources:\n" + of("shop", ", db_settings: {role: shop_app, app.tenant: $tenant}") +
			of("own", ", db_settings: {role: shop_app, app.tenant: $tenant, app.user: $subject}")
		from, to := strings.Index(string(data), "sources:"), strings.Index(string(data), "\nauth:")
		if err := os.WriteFile(o.File, []byte(string(data[:from])+sources+string(data[to:])), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	var wg sync.WaitGroup
	for worker := range uint64(16) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(11, worker))
			for range 60 {
				who, n := people[random.IntN(len(people))], fmt.Sprint(1+random.IntN(3))
				auth := "Authorization: Bearer " + secret(who.name)
				want := []string{"of " + who.tenant + "1 " + n, "of " + who.tenant + "2 " + n}
				var got string
				switch what := random.IntN(5); what {
				case 0, 1, 2:
					tool := []string{"shared", "plain", "mine"}[what]
					if tool == "mine" {
						want = []string{"of " + who.name + " " + n}
					}
					got = r.post("tools/call", fmt.Sprintf(`"name":%q,"arguments":{"n":%q},`, tool, n), tool, auth)
				case 3:
					got = r.post("resources/read", `"uri":"note://`+n+`",`, "note://"+n, auth)
				case 4:
					got = r.post("completion/complete", `"ref":{"type":"ref/prompt","name":"ask"},"argument":{"name":"body","value":"`+n+`"},`, "ask", auth)
				}
				// Each body is there once or, as text beside structured content, twice.
				found := 0
				for _, p := range people {
					for i := range 4 {
						if body := fmt.Sprintf("of %s %d", p.name, i); strings.Contains(got, body) {
							found++
						}
					}
				}
				for _, w := range want {
					if found != len(want) || !strings.Contains(got, w) {
						t.Errorf("%s wants %q and gets %s", who.name, want, got)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	auth := "Authorization: Bearer " + secret("a1")
	if got := r.post("tools/call", `"name":"add","arguments":{"tenant":"b"},`, "add", auth); !strings.Contains(got, "row-level security") {
		t.Errorf("wrote another's row: %s", got)
	}
	if got := r.post("tools/call", `"name":"add","arguments":{"tenant":"a"},`, "add", auth); !strings.Contains(got, `"rows_affected":1`) {
		t.Errorf("did not write its own row: %s", got)
	}
}

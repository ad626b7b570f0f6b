package e2e

import (
	"context"
	"fmt"
	"os"

	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"millrace/e2e/harness"
)

const eventsConfig = `version: 1
sources:
  shop: %s
tools:
  - name: get_order
    source: shop
    description: One order.
    statement: SELECT id, state FROM orders WHERE id = :id
    parameters: [{name: id, type: integer, description: id, required: true}]
    annotations: {readOnlyHint: true}
    cache: {ttl: 1h, scope: public, tags: ["order:{id}"]}
resources:
  - {uriTemplate: "order://{id}", name: order, source: shop, statement: "SELECT state FROM orders WHERE id = :id", mimeType: application/json,
     parameters: [{name: id, type: integer}], cache: {ttl: 1h, scope: public, tags: ["order:{id}"]}}
events:
  - {source: shop, table: orders, tags: ["order:{id}"], updates: ["order://{id}"]}
`

// TestDatabaseEvents: what somebody else writes into the database is read at once, and who watches it is told.
func TestDatabaseEvents(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"sqlite", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var source string
			var run func(statement string)
			if kind == "sqlite" {
				file := filepath.Join(t.TempDir(), "shop.db")
				source = fmt.Sprintf("{sqlite: {path: %q}}", file)
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}

				run = func(statement string) {
					t.Helper()
					cmd := harness.Node(t, "peers/sqlite.mjs", file, statement)
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Fatalf("%s: %v: %s", statement, err, out)
					}
				}
			} else {
				pg := harness.NewPostgres(t)
				pg.Start()
				source = fmt.Sprintf("{postgres: {primary: %q}}", pg.URL())
				run = pg.Run
			}
			run("CREATE TABLE orders (id integer PRIMARY KEY, state text)")
			run("INSERT INTO orders VALUES (1, 'open'), (2, 'open')")
			config := harness.WriteConfig(t, fmt.Sprintf(eventsConfig, source))
			if out, errs, code := harness.Run(t, nil, "events", "install", "shop", "--config", config); code != 0 || !strings.Contains(out, "orders") {
				t.Fatalf("install: %d %s%s", code, out, errs)
			}
			s := harness.Start(t, harness.Options{Config: config})
			updated := make(chan string, 100)
			client := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, &mcp.ClientOptions{
				ResourceUpdatedHandler: func(_ context.Context, r *mcp.ResourceUpdatedNotificationRequest) { updated <- r.Params.URI },
			})
			session, err := client.Connect(t.Context(), httpTransport(s.URL, "http"), &mcp.ClientSessionOptions{ProtocolVersion: "2025-11-25"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = session.Close() })
			if err := session.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "order://1"}); err != nil {
				t.Fatal(err)
			}
			// The first look makes everything void; wait for that.
			harness.Eventually(t, 20*time.Second, "the outbox to be followed", func() error {
				_, metrics, err := s.AdminGet("/metrics")
				if err == nil && !strings.Contains(metrics, `millrace_cache_events_total{event="event",level="l1"} 1`) {
					err = fmt.Errorf("it is not yet")
				}
				return err
			})
			read := func() string {
				r, err := session.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "order://1"})
				if err != nil {
					t.Fatal(err)
				}
				return r.Contents[0].Text
			}
			for _, want := range []string{"miss", "hit"} {
				for _, id := range []string{"1", "2"} {
					if status, rows := called(t, s, "get_order", `{"id":`+id+`}`); status != want || !strings.Contains(rows, "open") {
						t.Errorf("%s %s, want %s", status, rows, want)
					}
				}
			}
			if text := read(); !strings.Contains(text, "open") {
				t.Error(text)
			}
			run("UPDATE orders SET state = 'sent' WHERE id = 1")
			select {
			case uri := <-updated:
				if uri != "order://1" {
					t.Errorf("told of %s", uri)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("who watches was not told")
			}
			if text := read(); !strings.Contains(text, "sent") { // what it reads now is not what was kept
				t.Error(text)
			}
			if status, rows := called(t, s, "get_order", `{"id":1}`); status != "miss" || !strings.Contains(rows, "sent") {
				t.Errorf("%s %s", status, rows)
			}
			if status, rows := called(t, s, "get_order", `{"id":2}`); status != "hit" || !strings.Contains(rows, "open") {
				t.Errorf("%s %s", status, rows)
			}
			if out, errs, code := harness.Run(t, nil, "events", "remove", "shop", "--config", config); code != 0 {
				t.Fatalf("remove: %d %s%s", code, out, errs)
			}
			run("UPDATE orders SET state = 'back' WHERE id = 1")
		})
	}
}

// TestEventsMistakes: what events: cannot mean is refused with its place.
func TestEventsMistakes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "shop.db")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := fmt.Sprintf(eventsConfig, fmt.Sprintf("{sqlite: {path: %q}}", file))
	for _, c := range []struct{ old, new, want string }{
		{"{source: shop, table: orders", "{source: shpo, table: orders", `there is no source "shpo"`},
		{"table: orders, tags", "table: 'orders; --', tags", "is no name of a table"},
		{`table: orders, tags: ["order:{id}"]`, `table: orders, tags: ["ordre:{id}"]`, `no cached tool or resource has a tag like "ordre:{id}"`},
		{`table: orders, tags: ["order:{id}"], updates`, `table: orders, updates`, "no tag here makes it void"},
		{`updates: ["order://{id}"]`, `updates: ["ordre://{id}"]`, `no resource has an address like "ordre://{id}"`},
		{`, tags: ["order:{id}"], updates: ["order://{id}"]}`, `}`, "says of nothing"},
	} {
		if !strings.Contains(good, c.old) {
			t.Fatalf("%s is not there", c.old)
		}
		out, errs, code := harness.Run(t, nil, "check", harness.WriteConfig(t, strings.Replace(good, c.old, c.new, 1)))
		if code != 1 || !strings.Contains(out+errs, c.want) {
			t.Errorf("%s: %d %s%s, want %q", c.new, code, out, errs, c.want)
		}
	}
	config := harness.WriteConfig(t, good)
	for _, args := range [][]string{{"install", "none"}, {"install", "shop"}} { // no such source; no such table
		if out, errs, code := harness.Run(t, nil, "events", args[0], args[1], "--config", config); code != 1 || !strings.Contains(errs, args[1]) && !strings.Contains(errs, "orders") {
			t.Errorf("%v: %d %s%s", args, code, out, errs)
		}
	}
}

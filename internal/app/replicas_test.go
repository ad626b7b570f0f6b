package app

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
	"millrace/internal/redis"
	"millrace/internal/redistest"
	"millrace/internal/sqldb"
)

// mixed is how many operations TestOwnWritesOnThreeServers does; `make replicas` does 50,000.
var mixed = flag.Int("app.mixed", 2000, "operations of TestOwnWritesOnThreeServers")

// Callers that write and read by turns on three servers, over replicas of which some are 2 s behind, read what they wrote.
func TestOwnWritesOnThreeServers(t *testing.T) {
	late := []string{"recovery_min_apply_delay=2s"}
	servers, err := pgtest.NewReplication("CREATE TABLE n (id bigint PRIMARY KEY, v bigint NOT NULL); INSERT INTO n SELECT i, 0 FROM generate_series(0, 99) AS i", late, late, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(servers.Stop)
	cfg := sqldb.DefaultConfig()
	cfg.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret(servers.Primary.URL("postgres"))}
	for _, url := range servers.URLs("postgres") {
		cfg.Postgres.Replicas = append(cfg.Postgres.Replicas, conf.Secret(url))
	}
	shared, err := redistest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shared.Stop)
	to := redis.DefaultConfig()
	to.Nodes = []string{shared.Addr()}

	type node struct{ read, write sqldb.Query }
	var nodes []node
	for range 3 {
		s, err := sqldb.New("shop", cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		r := s.(sqldb.Replicated)
		bus, err := newPositionBus(to, func(string) []sqldb.Replicated { return []sqldb.Replicated{r} }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(bus.close)
		r.Share(bus.of("shop"))
		id, v := sqldb.Param{Name: "id", Type: "integer"}, sqldb.Param{Name: "v", Type: "integer"}
		read, err := s.Compile(sqldb.Spec{Name: "read", Text: "SELECT v FROM n WHERE id = :id", Params: []sqldb.Param{id}, MaxRows: 2})
		if err != nil {
			t.Fatal(err)
		}
		write, err := s.Compile(sqldb.Spec{Name: "write", Text: "UPDATE n SET v = :v WHERE id = :id", Params: []sqldb.Param{id, v}, Mode: sqldb.ReadWrite})
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, node{read, write})
	}
	whole := func(n int64) mcp.Value { return mcp.Value{Kind: mcp.KindInt, Int: n} }
	var left, onReplicas, reads atomic.Int64
	left.Store(int64(*mixed))
	var wg sync.WaitGroup
	for n := range int64(8) {
		wg.Go(func() {
			caller := &mcp.Caller{Principal: mcp.NewPrincipal("acme", fmt.Sprint("caller", n), nil)}
			r := rand.New(rand.NewPCG(7, uint64(n)))
			written := int64(0)
			for v := int64(1); left.Add(-1) >= 0; v++ {
				s := nodes[r.IntN(3)]
				if r.IntN(20) == 0 {
					if _, _, err := s.write.Run(context.Background(), nil, &sqldb.Execution{Args: []mcp.Value{whole(n), whole(v)}, Caller: caller, Deadline: time.Now().Add(time.Minute)}); err != nil {
						t.Error(err)
						return
					}
					written = v
					continue
				}
				out, outcome, err := s.read.Run(context.Background(), nil, &sqldb.Execution{Args: []mcp.Value{whole(n)}, Caller: caller, Deadline: time.Now().Add(time.Minute)})
				var got struct{ Rows []struct{ V int64 } }
				if err == nil {
					err = json.Unmarshal(out, &got)
				}
				if err != nil || len(got.Rows) != 1 || got.Rows[0].V != written {
					t.Errorf("caller %d wrote %d and reads %s on %d, %v", n, written, out, outcome.Replica, err)
					return
				}
				reads.Add(1)
				if outcome.Replica > 0 {
					onReplicas.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d operations: %d reads, %d of them on replicas, none older than its caller's own last write", *mixed, reads.Load(), onReplicas.Load())
	if onReplicas.Load() == 0 && *mixed >= 10_000 {
		t.Error("no read ran on a replica")
	}
}

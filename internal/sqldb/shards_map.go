package sqldb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/mcp"
)

// shardMap is what the servers have, as each has said at some time.
type shardMap struct {
	at     time.Time
	epochs []int64           // by server; less than zero where it never answered
	failed []error           // by server: what came of asking it last
	owner  [ShardCount]int16 // the number of the server, or one of those below
}

const (
	nobody  = -1
	several = -2
)

const (
	shardLook  = 2 * time.Second       // for a server's answer
	shardPause = 20 * time.Millisecond // between looks, while a shard is between servers
)

// look asks the servers anew, unless somebody has since old was read.
func (s *sharded) look(ctx context.Context, old *shardMap) error {
	select {
	case <-s.looks:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.looks <- struct{}{} }()
	if s.known.Load() != old {
		return nil
	}
	m := &shardMap{epochs: make([]int64, len(s.servers)), failed: make([]error, len(s.servers))}
	for i := range m.owner {
		m.owner[i] = nobody
	}
	found := make([][]int, len(s.servers))
	_ = sideBySide(context.WithoutCancel(ctx), len(s.servers), len(s.servers), func(ctx context.Context, next func() (int, bool)) error {
		for i, ok := next(); ok; i, ok = next() {
			m.epochs[i], found[i], m.failed[i] = s.servers[i].ask(ctx, s.name)
		}
		return nil
	})
	for i, shards := range found {
		for _, shard := range shards {
			if m.owner[shard] != nobody {
				m.owner[shard] = several
			} else {
				m.owner[shard] = int16(i)
			}
		}
	}
	for i, err := range m.failed { // what was there before may be there still: it is checked
		if err == nil || old == nil {
			continue
		}
		m.epochs[i] = old.epochs[i]
		for shard, owner := range old.owner {
			if owner == int16(i) && m.owner[shard] == nobody {
				m.owner[shard] = owner
			}
		}
	}
	m.at = time.Now()
	s.known.Store(m)
	return nil
}

// ask asks a server what it has.
func (o *shardServer) ask(ctx context.Context, source string) (epoch int64, shards []int, err error) {
	ctx, cancel := context.WithTimeout(ctx, shardLook)
	defer cancel()
	out, _, err := o.look.Run(ctx, nil, &Execution{Deadline: time.Now().Add(shardLook), Primary: true})
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code == stateUndefinedTable {
		return -1, nil, &mcp.ToolError{Kind: kindUnavailable, Cause: err, Message: fmt.Sprintf("source %q: server %s has no map of shards; run 'millrace install %[1]s --config FILE'", source, o.name)}
	}
	if err != nil {
		return -1, nil, err
	}
	epoch, shards, open, err := parseShards(out)
	if len(open) > 0 {
		return -1, nil, &mcp.ToolError{Kind: kindUnavailable, Message: fmt.Sprintf("source %q: server %s has not been made ready for table %s; run 'millrace install %[1]s --config FILE'", source, o.name, open[0])}
	}
	return epoch, shards, err
}

// parseShards reads the answer of a server's shards.
func parseShards(out []byte) (epoch int64, shards []int, open []string, err error) {
	var got struct {
		Rows []struct {
			Epoch  int64
			Shards []int
			Open   []string // tables without triggers
		}
	}
	if err := json.Unmarshal(out, &got); err != nil || len(got.Rows) != 1 {
		return -1, nil, nil, fmt.Errorf("the map of shards is not readable: %.80q", out)
	}
	for _, shard := range got.Rows[0].Shards {
		if shard < 0 || shard >= ShardCount {
			return -1, nil, nil, fmt.Errorf("the map of shards has a shard %d", shard)
		}
	}
	return got.Rows[0].Epoch, got.Rows[0].Shards, got.Rows[0].Open, nil
}

// locate gives the server of a shard, waiting for one that is between servers.
func (s *sharded) locate(ctx context.Context, b *bounds, shard int) (m *shardMap, server int, err error) {
	err = s.await(ctx, b, func(known *shardMap) error {
		m, server = known, int(known.owner[shard])
		return s.unsettled(shard, server)
	})
	return m, server, err
}

// whole gives a map in which each shard is on one server.
func (s *sharded) whole(ctx context.Context, b *bounds) (m *shardMap, err error) {
	err = s.await(ctx, b, func(known *shardMap) error {
		m = known
		for shard, owner := range known.owner {
			if err := s.unsettled(shard, int(owner)); err != nil {
				return err
			}
		}
		return nil
	})
	return m, err
}

// errUnsettled is of a shard that is on no server, or on several.
var errUnsettled = errors.New("the map of shards is not settled")

// unsettled is the error of a shard that is on no server or on several, nil for another.
func (s *sharded) unsettled(shard, owner int) error {
	switch owner {
	case several:
		return &mcp.ToolError{Kind: kindUnavailable, Cause: errUnsettled, Message: fmt.Sprintf("source %q: shard %d is on several servers; 'millrace shards plan %[1]s' tells which", s.name, shard)}
	case nobody:
		return &mcp.ToolError{Kind: kindOverloaded, Cause: errUnsettled, Meta: []byte(`"millrace/retryAfterMs":1000`),
			Message: fmt.Sprintf("source %q: shard %d is being moved, or no server has it ('millrace shards plan %[1]s' tells); try again in a second", s.name, shard)}
	}
	return nil
}

// mostTwice is how many looks find a shard on several servers until that is said: one that moves between two answers of a look seems to be.
const mostTwice = 3

// await looks until a map is as fits wants it.
func (s *sharded) await(ctx context.Context, b *bounds, fits func(*shardMap) error) error {
	for looks := 0; ; looks++ {
		m := s.known.Load()
		err := errUnsettled
		if m != nil {
			err = fits(m)
		}
		if !errors.Is(err, errUnsettled) {
			return err
		}
		if m != nil && looks > 0 {
			for i, failed := range m.failed {
				if failed != nil && m.epochs[i] < 0 {
					return failed
				}
			}
			if looks >= mostTwice && isUnavailable(err) {
				return err
			}
		}
		if looks > 0 || m != nil && time.Since(m.at) < shardPause {
			select {
			case <-time.After(shardPause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if !time.Now().Before(b.deadline) {
			return err
		}
		if err := s.look(ctx, m); err != nil {
			return err
		}
	}
}

// having gives the servers that have shards: the epochs of those tell that the others have none.
func (m *shardMap) having() (servers []int) {
	has := make([]bool, len(m.epochs))
	for _, owner := range m.owner {
		if owner >= 0 {
			has[owner] = true
		}
	}
	for i, is := range has {
		if is {
			servers = append(servers, i)
		}
	}
	return servers
}

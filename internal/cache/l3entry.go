package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"millrace/internal/mcp"
)

// stored is an entry as the database has it.
type stored struct {
	Key    []byte      `json:"k"` // base64 of the whole of it
	Target string      `json:"t"`
	Args   int         `json:"a"`
	Fields string      `json:"f"`
	Meta   string      `json:"m,omitempty"`
	Hints  *[2]int64   `json:"h,omitempty"` // milliseconds, scope
	Rows   mcp.Rows    `json:"r,omitempty"`
	Born   int64       `json:"b"` // nanoseconds since 1970
	TTL    int64       `json:"l"` // milliseconds
	Cost   int64       `json:"c"` // microseconds
	Stale  [2]int64    `json:"x"` // milliseconds while revalidating, if error
	Stamps [][2]uint64 `json:"s"`
	// What the second level said of the tags before the work: nothing without one.
	Run      string      `json:"u,omitempty"`
	Versions [][2]uint64 `json:"v,omitempty"`
}

func l3Key(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

func (e *Entry) stored() *stored {
	r := &e.Result
	s := &stored{Key: []byte(e.Key), Target: e.Target, Args: e.Args, Fields: string(r.Fields), Meta: string(r.Meta), Rows: r.Rows,
		Born: e.Born.UnixNano(), TTL: e.TTL.Milliseconds(), Cost: e.Cost.Microseconds(), Stale: [2]int64{e.StaleRevalidate.Milliseconds(), e.StaleError.Milliseconds()}}
	if r.Hints != nil {
		s.Hints = &[2]int64{r.Hints.TTL.Milliseconds(), int64(r.Hints.Scope)}
	}
	if e.under != nil {
		s.Run, s.Versions = e.under.run, e.under.versions
	}
	for _, m := range e.stamps {
		if m.stripe < stripes {
			s.Stamps = append(s.Stamps, [2]uint64{uint64(m.stripe), m.version})
		}
	}
	return s
}

func (s *stored) entry() *Entry {
	const ms = time.Millisecond
	e := &Entry{Result: mcp.Result{Fields: []byte(s.Fields), Rows: s.Rows}, Key: string(s.Key), Target: s.Target, Args: s.Args,
		Born: time.Unix(0, s.Born), TTL: time.Duration(s.TTL) * ms, Cost: time.Duration(s.Cost) * time.Microsecond,
		StaleRevalidate: time.Duration(s.Stale[0]) * ms, StaleError: time.Duration(s.Stale[1]) * ms}
	if s.Meta != "" {
		e.Result.Meta = []byte(s.Meta)
	}
	if s.Hints != nil {
		e.Result.Hints = &mcp.Hints{TTL: time.Duration(s.Hints[0]) * ms, Scope: mcp.Scope(s.Hints[1])}
	}
	if s.Run != "" {
		e.under = &sight{run: s.Run, versions: s.Versions}
	}
	for _, m := range s.Stamps {
		e.stamps = append(e.stamps, stamp{stripe: uint32(m[0]), version: m[1]})
	}
	return e
}

package cache

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"millrace/internal/mcp"
)

// Usage is what one entry has been good for. Its JSON is what the admin listener answers.
type Usage struct {
	Target    string          `json:"target"`
	Arguments json.RawMessage `json:"arguments"` // in the order of the target's parameters
	Hits      int64           `json:"hits"`
	Cost      float64         `json:"cost_seconds"`  // of the work that made it
	Saved     float64         `json:"saved_seconds"` // of work that its hits did not need
	Bytes     int             `json:"bytes"`
	Age       float64         `json:"age_seconds"`
	Fresh     bool            `json:"fresh"`
}

// MostTop bounds what Top gives.
const MostTop = 1000

// mostArguments bounds the arguments of one Usage, in bytes.
const mostArguments = 500

// Top gives the n entries with the most hits, those that saved the most work first where they are even. It looks at every
// entry: it is for people, not for each second.
func (c *Cache) Top(n int) []Usage {
	n = max(0, min(n, MostTop))
	var all []*Entry
	for _, e := range c.l1.entries.All() {
		if c.tags.current(e.stamps) && e.hits.Load() > 0 {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *Entry) int {
		return cmp.Or(cmp.Compare(b.hits.Load(), a.hits.Load()), cmp.Compare(b.Cost, a.Cost), cmp.Compare(a.Key, b.Key))
	})
	now := time.Now()
	out := make([]Usage, 0, min(n, len(all)))
	for _, e := range all[:min(n, len(all))] {
		hits := e.hits.Load()
		out = append(out, Usage{Target: e.Target, Arguments: e.arguments(), Hits: hits, Cost: e.Cost.Seconds(), Saved: float64(hits) * e.Cost.Seconds(),
			Bytes: e.Bytes(), Age: now.Sub(e.Born).Seconds(), Fresh: now.Sub(e.Born) < e.life})
	}
	return out
}

// arguments gives the entry's arguments as a JSON array; a text instead where they are long.
func (e *Entry) arguments() json.RawMessage {
	values, ok := mcp.ParseValues([]byte(e.Key[e.Args:]))
	if !ok {
		return json.RawMessage("null")
	}
	out := []byte{'['}
	for i, v := range values {
		if i > 0 {
			out = append(out, ',')
		}
		if out = v.Append(out); len(out) > mostArguments {
			return json.RawMessage(`"too long to show"`)
		}
	}
	return append(out, ']')
}

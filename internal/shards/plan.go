package shards

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/sqldb"
)

// Plan is how shards are spread, and what would spread them evenly.
type Plan struct {
	Servers []ServerPlan `json:"servers"`
	Moves   []MovePlan   `json:"moves"`
	// Interrupted are shards of a move that has not ended: the next one ends it.
	Interrupted []int `json:"interrupted"`
	Nowhere     []int `json:"nowhere"` // shards that no server has
}

// ServerPlan is one server with its shards.
type ServerPlan struct {
	Name   string `json:"name"`
	Shards []int  `json:"shards"`
	After  int    `json:"after"` // how many it has after Moves
}

// MovePlan is one move.
type MovePlan struct {
	Shards []int  `json:"shards"`
	From   string `json:"from"`
	To     string `json:"to"`
}

// Plan tells how the shards are spread, and the fewest moves after which every server but those of without has as many as the others, give or take one.
func (s *Servers) Plan(ctx context.Context, without []string) (*Plan, error) {
	for _, name := range without {
		if _, err := s.named(name); err != nil {
			return nil, err
		}
	}
	st, err := s.settled(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Moves: []MovePlan{}, Interrupted: []int{}, Nowhere: []int{}}
	at := map[string]int{}
	for i, o := range s.all {
		p.Servers = append(p.Servers, ServerPlan{Name: o.name, Shards: []int{}})
		at[o.name] = i
	}
	for shard := range sqldb.ShardCount {
		owner, err := st.owner(shard)
		if err != nil {
			return nil, err
		}
		for _, o := range s.all {
			if state := st[o.name][shard]; (state == arriving || state == arrived || state == leaving) && !slices.Contains(p.Interrupted, shard) {
				p.Interrupted = append(p.Interrupted, shard)
			}
		}
		if owner == "" {
			p.Nowhere = append(p.Nowhere, shard)
			continue
		}
		p.Servers[at[owner]].Shards = append(p.Servers[at[owner]].Shards, shard)
	}
	p.spread(without)
	return p, nil
}

// spread fills Moves and After.
func (p *Plan) spread(without []string) {
	total, takers := 0, 0
	for i := range p.Servers {
		total += len(p.Servers[i].Shards)
		if !slices.Contains(without, p.Servers[i].Name) {
			takers++
		}
	}
	if takers == 0 {
		for i := range p.Servers {
			p.Servers[i].After = len(p.Servers[i].Shards)
		}
		return
	}
	// Those that have most keep one more, where it does not come out even.
	order := make([]int, len(p.Servers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return len(p.Servers[b].Shards) - len(p.Servers[a].Shards) })
	rest := total % takers
	for _, i := range order {
		if slices.Contains(without, p.Servers[i].Name) {
			continue
		}
		p.Servers[i].After = total / takers
		if rest > 0 {
			p.Servers[i].After++
			rest--
		}
	}
	to := 0
	for i := range p.Servers {
		from := &p.Servers[i]
		for spare := from.Shards[min(from.After, len(from.Shards)):]; len(spare) > 0; {
			for len(p.Servers[to].Shards)+p.coming(to) >= p.Servers[to].After {
				to++
			}
			n := min(len(spare), p.Servers[to].After-len(p.Servers[to].Shards)-p.coming(to))
			p.Moves = append(p.Moves, MovePlan{spare[:n], from.Name, p.Servers[to].Name})
			spare = spare[n:]
		}
	}
}

// coming is how many shards go to a server.
func (p *Plan) coming(i int) (n int) {
	for _, m := range p.Moves {
		if m.To == p.Servers[i].Name {
			n += len(m.Shards)
		}
	}
	return n
}

// Parse reads shards as they are written on a command line: 5, 0-99, or several of those with commas.
func Parse(text string) (shards []int, err error) {
	for item := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(item), "-")
		a, errA := strconv.Atoi(first)
		b := a
		var errB error
		if isRange {
			b, errB = strconv.Atoi(last)
		}
		if errA != nil || errB != nil || a < 0 || b < a || b >= sqldb.ShardCount {
			return nil, fmt.Errorf("%q names no shards: write numbers from 0 to %d, or ranges, such as 0-99,512", item, sqldb.ShardCount-1)
		}
		for n := a; n <= b; n++ {
			if !slices.Contains(shards, n) {
				shards = append(shards, n)
			}
		}
	}
	slices.Sort(shards)
	return shards, nil
}

// ranges writes shards as Parse reads them.
func ranges(shards []int) string {
	var out []string
	for i := 0; i < len(shards); {
		j := i
		for j+1 < len(shards) && shards[j+1] == shards[j]+1 {
			j++
		}
		if i == j {
			out = append(out, strconv.Itoa(shards[i]))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", shards[i], shards[j]))
		}
		i = j + 1
	}
	return strings.Join(out, ",")
}

// Text writes the plan for people. moveCommand is what stands before shards and server in a command that moves.
func (p *Plan) Text(moveCommand, moveFlags string) string {
	var b strings.Builder
	width := len("server")
	for _, s := range p.Servers {
		width = max(width, len(s.Name))
	}
	fmt.Fprintf(&b, "%-*s  shards  after\n", width, "server")
	for _, s := range p.Servers {
		fmt.Fprintf(&b, "%-*s  %6d  %5d\n", width, s.Name, len(s.Shards), s.After)
	}
	if len(p.Interrupted) > 0 {
		fmt.Fprintf(&b, "\na move of %s is under way or was interrupted; the next one ends it\n", ranges(p.Interrupted))
	}
	if len(p.Nowhere) > 0 {
		fmt.Fprintf(&b, "\nno server has %s\n", ranges(p.Nowhere))
	}
	if len(p.Moves) == 0 {
		b.WriteString("\nnothing is to be moved\n")
		return b.String()
	}
	b.WriteByte('\n')
	for _, m := range p.Moves {
		fmt.Fprintf(&b, "%s %s %s %s\n", moveCommand, ranges(m.Shards), m.To, moveFlags)
	}
	return b.String()
}

package catalog

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// statement is one statement of the file, with what its database has said about it.
type statement struct {
	path   string // in the file
	source string
	query  sqldb.Query
	tool   *tool // the tool that its columns describe, nil for that of a resource or a completion

	// Describe alone uses these, and its calls do not overlap.
	accepted bool
	told     bool // that it was refused
}

// Describe asks the databases about the statements they have not accepted yet, and gives those that they refuse, each
// once in the life of the catalog. The columns of the tools go into their lists. It is complete when all were accepted;
// until then it may be called again. Calls must not overlap.
func (c *Catalog) Describe(ctx context.Context) (complete bool, refused conf.Faults) {
	complete = true
	var left []*statement
	for _, s := range c.statements {
		if !s.accepted {
			left = append(left, s)
		}
	}
	c.ask(ctx, left, func(s *statement, columns []sqldb.Column, err error) {
		if err == nil && s.tool != nil {
			s.tool.columns.Store(&columns)
		}
		if err == nil && s.tool != nil && s.tool.Output == nil {
			var line []byte
			if line, err = s.tool.line(columns, true); err == nil {
				s.tool.listed.Store(&line)
			}
		}
		s.accepted = err == nil
		complete = complete && s.accepted
		if f, ok := s.refusal(err); ok && !s.told {
			s.told = true
			refused = append(refused, f)
		}
	})
	return complete, refused
}

// Check asks the databases about every statement and gives what they say against it. Sources that are down are left out:
// that is one fault, and not one for each statement.
func (c *Catalog) Check(ctx context.Context, down map[string]error) conf.Faults {
	var faults conf.Faults
	var asked []*statement
	for _, s := range c.statements {
		if down[s.source] == nil {
			asked = append(asked, s)
		}
	}
	c.ask(ctx, asked, func(s *statement, columns []sqldb.Column, err error) {
		if err == nil && s.tool != nil {
			s.tool.columns.Store(&columns)
		}
		if f, ok := s.refusal(err); ok {
			faults = append(faults, f)
		} else if err != nil {
			faults = append(faults, conf.Fault{Path: s.path, Message: "the database could not be asked about it: " + err.Error(),
				Fix: "see that the database is up and answers, then check again"})
		}
	})
	for _, t := range c.tools {
		if t.through == nil {
			continue
		}
		if how := t.through.differ(); how != "" && how != unknown {
			faults = append(faults, conf.Fault{Path: t.path + ".writes", Message: "the row that the tool returns is never the other's result: " + how,
				Fix: "return the columns that tool " + strconv.Quote(t.Writes.Tool) + " selects, in their order, or use invalidates instead"})
		}
	}
	return faults
}

// ask asks about each statement and tells answer, one at a time. The sources are asked side by side: one that does not
// answer takes the time of no other.
func (c *Catalog) ask(ctx context.Context, statements []*statement, answer func(*statement, []sqldb.Column, error)) {
	bySource := map[string][]*statement{}
	for _, s := range statements {
		bySource[s.source] = append(bySource[s.source], s)
	}
	var mu sync.Mutex // answer is called with it held
	var wg sync.WaitGroup
	for _, list := range bySource {
		wg.Go(func() {
			for _, s := range list {
				columns, err := s.query.Describe(ctx)
				mu.Lock()
				answer(s, columns, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// refusal is the fault of a statement that its database does not take; ok is false where it took it, or was not reached.
func (s *statement) refusal(err error) (f conf.Fault, ok bool) {
	var tool *mcp.ToolError
	if !errors.As(err, &tool) || tool.Kind != "sql" {
		return f, false
	}
	return conf.Fault{Path: s.path, Message: tool.Message, Fix: "mend the statement, or the tables of source " + s.source}, true
}

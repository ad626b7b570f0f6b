package catalog

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// asked is a source whose database says what a test wants of its statements.
type asked struct {
	sqldb.Source
	describe func(ctx context.Context, name string) error
}

type askedQuery struct {
	sqldb.Query
	source *asked
	name   string
}

func (s *asked) Compile(spec sqldb.Spec) (sqldb.Query, error) {
	return askedQuery{source: s, name: spec.Text}, nil
}

func (q askedQuery) Describe(ctx context.Context) ([]sqldb.Column, error) {
	return []sqldb.Column{{Name: "id", Schema: []byte(`{}`)}}, q.source.describe(ctx, q.name)
}

// everyKind has a statement wherever one can stand; those of tools are on source "a", the others on "b".
func everyKind() Definitions {
	r := Resource{URI: "c://all", Name: "all", Source: "b", Statement: "of the resource"}
	r.SetDefaults()
	return Definitions{
		Tools: []Tool{sqlTool("plain", "plain"), sqlTool("typed", "typed", func(t *Tool) { t.Output = map[string]any{"type": "object"} })},
		Prompts: []Prompt{{Name: "p", Messages: []PromptMessage{{Role: "user"}},
			Arguments: []PromptArgument{{Name: "x", Complete: &Complete{Source: "b", Statement: "of the completion"}}}}},
		Resources: []Resource{r},
	}
}

// TestRefusedStatements: each statement that its database refuses is told once, when it is known, and no other.
func TestRefusedStatements(t *testing.T) {
	t.Parallel()
	says := func(kind string) func(context.Context, string) error {
		return func(_ context.Context, name string) error {
			return &mcp.ToolError{Kind: kind, Message: name + " is " + kind}
		}
	}
	db, b := &asked{describe: says("unavailable")}, &asked{describe: says("sql")}
	c := build(t, everyKind(), map[string]Source{"db": {Source: db}, "b": {Source: b}})
	describe := func(want ...string) {
		t.Helper()
		complete, refused := c.Describe(t.Context())
		if complete != (len(want) == 1 && want[0] == "complete") {
			t.Errorf("complete: %v", complete)
		}
		if complete {
			want = nil
		}
		if len(refused) != len(want) {
			t.Errorf("refused %v, want %v", refused, want)
		}
		for _, w := range want {
			if !strings.Contains(refused.Error(), w) {
				t.Errorf("refused %v, want %v", refused, want)
			}
		}
	}
	describe("resources[0].statement: of the resource is sql; mend the statement, or the tables of source b", "prompts[0].arguments[0].complete.statement: of the completion is sql")
	describe()
	db.describe = says("sql")
	describe("tools[0].statement: plain is sql", "tools[1].statement: typed is sql")
	describe()
	accepts := func(context.Context, string) error { return nil }
	db.describe, b.describe = accepts, accepts
	describe("complete")
}

// TestSilentSourceHidesNothing: while one source does not answer, what the other refuses is found.
func TestSilentSourceHidesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		silent := &asked{describe: func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		refuses := &asked{describe: func(ctx context.Context, name string) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &mcp.ToolError{Kind: "sql", Message: name}
		}}
		for _, sources := range []map[string]Source{{"db": {Source: silent}, "b": {Source: refuses}}, {"db": {Source: refuses}, "b": {Source: silent}}} {
			c := build(t, everyKind(), sources)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, refused := c.Describe(ctx); len(refused) != 2 {
				t.Errorf("refused: %v", refused)
			}
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			if faults := c.Check(ctx, nil); len(faults) != 4 || strings.Count(faults.Error(), "could not be asked") != 2 {
				t.Errorf("checked: %v", faults)
			}
			cancel()
			for down, s := range sources {
				if s.Source == silent {
					if faults := c.Check(t.Context(), map[string]error{down: fmt.Errorf("down")}); len(faults) != 2 {
						t.Errorf("checked without %s: %v", down, faults)
					}
				}
			}
		}
	})
}

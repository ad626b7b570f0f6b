package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// tool is a Tool compiled.
type tool struct {
	Tool
	table   *table
	query   sqldb.Query
	policy  mcp.Policy
	version [16]byte
	meter   mcp.Meter
	invoke  mcp.Handler
	// listed is the tool's line in lists; it is written again when the statement's columns become known.
	listed  atomic.Pointer[[]byte]
	path    string // in the file
	updates []phrase
	columns atomic.Pointer[[]sqldb.Column] // of its statement, once they are known
	through *writeThrough                  // nil without writes:
	publish func(...mcp.Event)
	keyAt   int // the parameter that is the idempotency key; -1 for none
}

// scratch holds the rows of one run until their result is assembled at its exact size.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// keepScratch is the greatest buffer that goes back to the pool.
const keepScratch = 256 << 10

// run executes the tool's statement and assembles its result.
func (t *tool) run(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
	x, err := t.execution(c)
	if err != nil {
		return mcp.Result{}, err
	}
	t.observe(c, &x)
	r, err := t.execute(ctx, &x)
	t.tell(c.Args, err)
	return r, err
}

// execution is a run for a call. What is kept until a write makes it void must hold all that was written before: no replica may have it
// from before.
func (t *tool) execution(c *mcp.Call) (sqldb.Execution, error) {
	once, err := t.once(c)
	return sqldb.Execution{Once: once, Args: c.Args, Deadline: c.Deadline, Caller: &c.Caller, Primary: t.policy.Cacheable && t.policy.Mutable, Everybody: len(t.updates) > 0}, err
}

func (t *tool) observe(c *mcp.Call, x *sqldb.Execution) {
	if c.Notify == nil {
		return
	}
	if c.Request != nil && c.Request.Meta.ProgressToken != nil {
		x.Progress = func(rows int64) { c.Notify.Progress(float64(rows), 0, fmt.Sprintf("%d rows", rows)) }
	}
	if c.LogLevel != mcp.LogOff {
		x.Notice = func(severity, message string) { c.Notify.Log(noticeLevel(severity), t.Source, message) }
	}
}

func noticeLevel(severity string) mcp.LogLevel {
	switch severity {
	case "WARNING":
		return mcp.LogWarning
	case "DEBUG":
		return mcp.LogDebug
	case "INFO", "LOG":
		return mcp.LogInfo
	}
	return mcp.LogNotice
}

func (t *tool) execute(ctx context.Context, x *sqldb.Execution) (mcp.Result, error) {
	buf := scratch.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= keepScratch {
			scratch.Put(buf)
		}
	}()
	const first, second = `"structuredContent":`, `,"content":[{"type":"text","text":`
	out := append((*buf)[:0], first...)
	out, outcome, err := t.query.Run(ctx, out, x)
	*buf = out[:0]
	if err != nil {
		return mcp.Result{}, err
	}
	if outcome.RolledBack {
		return mcp.Result{}, nil
	}
	rows := len(out)
	out = slices.Grow(out, rows+rows/4) // the same again as a text, whose quotes are escaped
	out = mcp.AppendText(append(out, second...), out[len(first):rows])
	out = append(out, '}')
	if outcome.Truncated {
		out = append(out, `,{"type":"text","text":`...)
		out = mcp.AppendText(out, t.cut(outcome.Rows))
		out = append(out, '}')
	}
	out = append(out, ']')
	*buf = out[:0]
	r := mcp.Result{Fields: bytes.Clone(out), Rows: mcp.RowsMany}
	switch {
	case outcome.Removed: // what it returns is not there any more
		r.Rows = mcp.RowsUnknown
	case outcome.Repeated: // nor need it be what is there now
		r.Rows, r.Meta = mcp.RowsUnknown, []byte(`"millrace/write":"repeated"`)
	case outcome.Rows == 0:
		r.Rows = mcp.RowsNone
	case outcome.Rows == 1 && !outcome.Truncated:
		r.Rows = mcp.RowsOne
	}
	return r, nil
}

// cut says that a result does not have all rows.
func (t *tool) cut(rows int64) string {
	if n := len(t.Statements); n > 0 {
		return fmt.Sprintf("The result was cut after %d rows in all: each statement's is bounded by %d rows (max_rows) and the %dth part of %s (max_bytes), and says whether it was cut. Narrow the arguments to see the rest.",
			rows, t.MaxRows, n, byteText(int64(t.MaxBytes)))
	}
	return fmt.Sprintf("The result was cut after %d rows: it is bounded by %d rows (max_rows) and %s (max_bytes). Narrow the arguments to see the rest.", rows, t.MaxRows, byteText(int64(t.MaxBytes)))
}

func byteText(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + " MiB"
	case n >= 1<<10 && n%(1<<10) == 0:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// askFirst runs a write that has to be confirmed: the statement runs, its rows are counted, and only if the user has
// agreed to that very number before is it committed; else it is rolled back and the user is asked. Nothing is held
// while a person thinks.
func (t *tool) askFirst(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
	agreed := int64(-1)
	if c.Answer != nil {
		n, err := strconv.ParseInt(string(c.Answer.State), 10, 64)
		if err != nil {
			return mcp.Result{}, mcp.Errorf(mcp.CodeInvalidParams, "requestState is of another call")
		}
		reply, answered := c.Answer.Responses[confirmKey]
		switch {
		case !answered:
			return t.question(n), nil
		case !isAccepted(reply):
			return mcp.Result{}, &mcp.ToolError{Kind: "declined", Message: "Not confirmed by the user: this call changed nothing."}
		}
		agreed = n
	} else if !c.CanElicit {
		return mcp.Result{}, &mcp.Error{Code: mcp.CodeMissingCapability,
			Message: fmt.Sprintf("tool %q asks its user to confirm, and this client cannot ask (capability elicitation)", t.Name),
			Data:    []byte(`{"requiredCapabilities":{"elicitation":{"form":{}}}}`)}
	}
	var affected int64
	x, err := t.execution(c)
	if err != nil {
		return mcp.Result{}, err
	}
	x.Confirm = func(rows int64) bool {
		affected = rows
		return rows == 0 || rows == agreed
	}
	t.observe(c, &x)
	r, err := t.execute(ctx, &x)
	if err == nil && r.Fields == nil {
		return t.question(affected), nil
	}
	t.tell(c.Args, err)
	return r, err
}

const confirmKey = "confirm"

func (t *tool) question(rows int64) mcp.Result {
	n := strconv.FormatInt(rows, 10)
	params := append([]byte(`{"mode":"form","message":`), mcp.AppendText(nil, strings.ReplaceAll(t.Confirm, "{n}", n))...)
	params = append(params, `,"requestedSchema":{"type":"object","properties":{"confirm":{"type":"boolean","title":"Confirm","description":"Yes, do it."}},"required":["confirm"]}}`...)
	return mcp.Result{Input: &mcp.InputRequired{
		Requests: []mcp.InputRequest{{Key: confirmKey, Method: "elicitation/create", Params: params}},
		State:    []byte(n),
	}}
}

// isAccepted tells whether an elicitation's result is a yes.
func isAccepted(reply []byte) bool {
	action, _ := mcp.Text(mcp.Member(reply, "action"))
	return string(action) == "accept" && string(mcp.Member(mcp.Member(reply, "content"), "confirm")) == "true"
}

// line writes the tool as lists show it. columns are those of its statement, nil while they are not known.
func (t *tool) line(columns []sqldb.Column, described bool) ([]byte, error) {
	out := mcp.AppendText([]byte(`{"name":`), t.Name)
	if t.Title != "" {
		out = mcp.AppendText(append(out, `,"title":`...), t.Title)
	}
	out = mcp.AppendText(append(out, `,"description":`...), t.Description)
	out = append(append(out, `,"inputSchema":`...), t.table.schema()...)
	switch {
	case t.Output != nil:
		schema, err := json.Marshal(t.Output)
		if err != nil {
			return nil, err
		}
		out = append(append(out, `,"outputSchema":`...), schema...)
	case described:
		out = append(append(out, `,"outputSchema":`...), outputSchema(columns)...)
	}
	hints, err := json.Marshal(t.Annotations.wire())
	if err != nil {
		return nil, err
	}
	out = append(append(out, `,"annotations":`...), hints...)
	if t.Idempotency != nil { // agents' platforms find out by it where a key helps
		out = fmt.Appendf(out, `,"_meta":{"millrace/idempotency":{"ttlMs":%d}}`, t.Idempotency.TTL.Std().Milliseconds())
	}
	return append(out, '}'), nil
}

func (a Annotations) wire() map[string]any {
	w := map[string]any{"readOnlyHint": a.ReadOnlyHint, "idempotentHint": a.IdempotentHint}
	if a.Title != "" {
		w["title"] = a.Title
	}
	if a.DestructiveHint != nil {
		w["destructiveHint"] = *a.DestructiveHint
	} else if a.ReadOnlyHint {
		w["destructiveHint"] = false
	}
	if a.OpenWorldHint != nil {
		w["openWorldHint"] = *a.OpenWorldHint
	} else {
		w["openWorldHint"] = false // a database is a closed world
	}
	return w
}

// schema gives the input schema, in the parameters' order.
func (t *table) schema() []byte {
	out := []byte(`{"type":"object","properties":{`)
	var required []string
	for i := range t.params {
		p := &t.params[i]
		if i > 0 {
			out = append(out, ',')
		}
		out = append(mcp.AppendText(out, p.Name), ':')
		s, err := json.Marshal(p.schema())
		if err != nil {
			s = []byte("{}") // a value from YAML always marshals
		}
		out = append(out, s...)
		if p.Required {
			required = append(required, p.Name)
		}
	}
	out = append(out, '}')
	if len(required) > 0 {
		list, _ := json.Marshal(required)
		out = append(append(out, `,"required":`...), list...)
	}
	return append(out, `,"additionalProperties":false}`...)
}

func outputSchema(columns []sqldb.Column) []byte {
	if len(columns) == 0 {
		return []byte(`{"type":"object","properties":{"rows_affected":{"type":"integer"}},"required":["rows_affected"]}`)
	}
	if columns[0].Part == nil {
		return rowsSchema(columns)
	}
	return objectSchema(columns, func(c sqldb.Column) []byte { return rowsSchema(c.Part) })
}

// rowsSchema is the schema of one statement's rows.
func rowsSchema(columns []sqldb.Column) []byte {
	out := append([]byte(`{"type":"object","properties":{"rows":{"type":"array","items":`), objectSchema(columns, func(c sqldb.Column) []byte { return c.Schema })...)
	return append(out, `},"truncated":{"type":"boolean"}},"required":["rows"]}`...)
}

// objectSchema is the schema of an object with a member for each column.
func objectSchema(columns []sqldb.Column, of func(sqldb.Column) []byte) []byte {
	out := []byte(`{"type":"object","properties":{`)
	names := make([]string, len(columns))
	for i, c := range columns {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(mcp.AppendText(out, c.Name), ':')
		out = append(out, of(c)...)
		names[i] = c.Name
	}
	list, _ := json.Marshal(names)
	return append(append(append(out, `},"required":`...), list...), '}')
}

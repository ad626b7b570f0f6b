package sqldb

import (
	"fmt"
	"time"

	"millrace/internal/mcp"
)

// The kinds of mcp.ToolError that leave this package.
const (
	kindTimeout     = "timeout"
	kindOverloaded  = "overloaded"
	kindUnavailable = "unavailable"
	kindSQL         = "sql"
	kindConflict    = "conflict"
)

// limit names the bound that a deadline came from.
type limit uint8

const (
	limitQuery limit = iota // the source's query_timeout
	limitTool               // the tool's timeout
	limitCall               // the caller's own deadline
)

// bounds says when one run must be over and why.
type bounds struct {
	deadline time.Time
	span     time.Duration
	limit    limit
}

// queryTimeout picks the tighter one of the source's and the statement's time-outs.
func queryTimeout(source, spec time.Duration) (time.Duration, limit) {
	if spec > 0 && spec < source {
		return spec, limitTool
	}
	return source, limitQuery
}

func runBounds(span time.Duration, l limit, x *Execution) bounds {
	now := time.Now()
	if !x.began.IsZero() {
		now = x.began
	}
	b := bounds{now.Add(span), span, l}
	if !x.Deadline.IsZero() && x.Deadline.Before(b.deadline) {
		b.deadline, b.span, b.limit = x.Deadline, x.Deadline.Sub(now), limitCall
	}
	return b
}

func (b *bounds) timeout(name string, cause error) error {
	var what, fix string
	span := max(b.span, 0).Round(time.Millisecond)
	switch b.limit {
	case limitTool:
		what, fix = fmt.Sprintf("the tool's timeout of %s", span), "narrow the request, or raise the tool's timeout"
	case limitCall:
		what, fix = fmt.Sprintf("the call's own deadline (%s)", span), "narrow the request, or allow it more time"
	default:
		what, fix = fmt.Sprintf("the query_timeout of %s", span), "narrow the request, or raise the source's query_timeout"
	}
	return &mcp.ToolError{
		Kind: kindTimeout, Cause: cause,
		Message: fmt.Sprintf("%s: the statement was stopped at %s; %s", name, what, fix),
	}
}

// overloaded refuses what cannot be served in time: nothing was done.
func overloaded(source, why string) error {
	return &mcp.ToolError{Kind: kindOverloaded, Meta: []byte(`"millrace/retryAfterMs":1000`),
		Message: fmt.Sprintf("source %q: %s; try again in a second", source, why)}
}

func unavailable(source string, cause error) error {
	return &mcp.ToolError{
		Kind: kindUnavailable, Cause: cause,
		Message: fmt.Sprintf("source %q: the database is not available; try again later", source),
	}
}

func sqlFailure(name, message string, cause error) error {
	return &mcp.ToolError{Kind: kindSQL, Cause: cause, Message: name + ": " + message}
}

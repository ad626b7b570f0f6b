package mcp

import (
	"context"
	"slices"
	"time"
)

// Handler answers one resolved call.
type Handler func(ctx context.Context, c *Call) (Result, error)

// Middleware wraps a Handler; the stops of the request path after Resolve are of this form.
type Middleware func(Handler) Handler

// Policy is what holds for every call of one target. It is immutable.
type Policy struct {
	Cacheable bool
	Scope     Scope
	TTL       time.Duration // of cached results, from their birth
	Timeout   time.Duration // of the work, at most
	MaxBytes  int           // of a result's structured content

	// StaleRevalidate and StaleError are how long beyond its TTL a result may be served while a new one is fetched, and where
	// that fails.
	StaleRevalidate, StaleError time.Duration
	// Negative is the TTL of a result that found nothing, where that is shorter.
	Negative time.Duration
	// Share is the name under which results are kept where several targets share them; "" for the target's own. Those that share one have
	// one Version.
	Share string
	// Tags gives what a result rests on, for changes to name; nil for nothing.
	Tags func(args []Value) []string
	// Mutable tells that others say when what a result rests on changes: it is not known by time alone.
	Mutable bool
	// Changes says what a write changes of that; nil for nothing.
	Changes *Changes
}

// Changes says what a write changes of what caches hold. It is immutable.
type Changes struct {
	// Tags gives the tags of the results that are no longer true.
	Tags func(args []Value) []string
	// Put gives the read whose result the write's own is, for the same caller; nil where there is none. It may be nil itself.
	Put func(write *Call) *Call
}

// Call is a request that has been resolved: who, what, with which arguments, under which policy. It belongs to one
// goroutine at a time.
type Call struct {
	Request *Request
	Caller  Caller

	// Target is the configured name of the tool, resource or prompt: never the client's text. "" for lists.
	Target string
	// Version is the hash of the target's definition and source: part of every key.
	Version [16]byte
	Policy  *Policy
	Args    []Value
	// Deadline is when the answer is of no more use; zero for none.
	Deadline time.Time
	// Invoke does the work.
	Invoke Handler

	// NoStore tells that the arguments cannot be keyed as safely as a cache needs: the call passes every cache by.
	NoStore bool
	// Meter counts the call; nil for none.
	Meter Meter

	// Notify sends a notification on this request's stream; nil where the client cannot take any.
	Notify Notifier
	// Answer carries what the user answered to an earlier InputRequired of this same call; nil on the first try.
	Answer *Answer
	// CanElicit tells whether the client can ask its user with a form.
	CanElicit bool
	// LogLevel is the least severe level that the client wants on this request; LogOff for none.
	LogLevel LogLevel

	key []byte
}

// Detach makes the call independent of the request's bytes, so that it may outlive the request that brought it.
func (c *Call) Detach() *Call {
	d := *c
	d.Request, d.Notify = nil, nil
	d.key = slices.Clone(c.key)
	d.Args = slices.Clone(c.Args)
	for i := range d.Args {
		d.Args[i].Text = slices.Clone(d.Args[i].Text)
	}
	if c.Answer != nil {
		d.Answer = c.Answer.clone()
	}
	return &d
}

// Kept is the name under which the call's result is kept: the target's, or the one that it shares with others.
func (c *Call) Kept() string {
	if c.Policy.Share != "" {
		return c.Policy.Share
	}
	return c.Target
}

// Key gives the bytes that stand for this call wherever results are shared: identity at the policy's scope, the name that
// results are kept under, the target's version and the decoded, defaulted arguments. It is neutral to the protocol's revision. Every field is
// preceded by its length or has a fixed one, so no two different calls give the same bytes.
//
// This is the one place where keys are made: caches, flights and requestState rest on it.
func (c *Call) Key() []byte {
	if len(c.key) == 0 {
		c.key = append(c.key, c.Caller.ScopeKey(c.Policy.Scope)...)
		c.key = appendKeyText(c.key, c.Kept())
		c.key = append(c.key, c.Version[:]...)
		for _, v := range c.Args {
			c.key = v.AppendKey(c.key)
		}
	}
	return c.key
}

// KeyArgs is where in Key the arguments begin.
func (c *Call) KeyArgs() int {
	n := len(c.Caller.ScopeKey(c.Policy.Scope)) + len(appendKeyText(nil, c.Kept())) + len(c.Version)
	return n
}

// keptKeyBytes bounds the buffer that a Call keeps for its next key.
const keptKeyBytes = 4096

// Reset clears the call for its next use, so that it keeps no request alive; its buffers stay where they are small.
func (c *Call) Reset() {
	clear(c.Args)
	if cap(c.key) > keptKeyBytes {
		c.key = nil
	}
	*c = Call{Args: c.Args[:0], key: c.key[:0]}
}

// Notifier sends notifications about one running call to its client.
type Notifier interface {
	// Progress reports strictly growing progress; it is dropped where the client gave no token.
	Progress(progress, total float64, message string)
	// Log sends a log message; it is dropped where the client asked for none of this level.
	Log(level LogLevel, logger, message string)
}

// Meter counts the calls of one target. It is safe for concurrent use and made beforehand: it costs no look-up.
type Meter interface {
	Observe(r Revision, s CacheStatus, d time.Duration)
	Error(r Revision, kind string)
}

// LogLevel is a syslog severity as the protocol names them; a greater one is more severe.
type LogLevel uint8

// The levels, least severe first. LogOff is the zero value: nothing is sent.
const (
	LogOff LogLevel = iota
	LogDebug
	LogInfo
	LogNotice
	LogWarning
	LogError
	LogCritical
	LogAlert
	LogEmergency
)

var logLevelNames = [...]string{"", "debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

func (l LogLevel) String() string { return logLevelNames[l] }

// ParseLogLevel finds the level that s names.
func ParseLogLevel[S ~string | ~[]byte](s S) (LogLevel, bool) {
	for l := LogDebug; l <= LogEmergency; l++ {
		if logLevelNames[l] == string(s) {
			return l, true
		}
	}
	return LogOff, false
}

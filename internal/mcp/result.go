package mcp

import (
	"bytes"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// CacheStatus says how a cache took part in a result.
type CacheStatus uint8

// The states of _meta["millrace/cache"].status. CacheNone leaves the field out: the target is not cacheable.
const (
	CacheNone CacheStatus = iota
	CacheHit
	CacheMiss
	CacheCoalesced
	CacheStale
	CacheBypass
)

var cacheStatusNames = [...]string{"none", "hit", "miss", "coalesced", "stale", "bypass"}

func (s CacheStatus) String() string { return cacheStatusNames[s] }

// CacheInfo is how a cache took part in one answer.
type CacheInfo struct {
	Status CacheStatus
	Level  uint8 // 1 to 3; 0 where no level answered
	Age    time.Duration
}

// Result is the outcome of a call, already encoded and neutral to revisions. Its bytes may be shared: nobody changes
// them. The network layer splices id, resultType, serverInfo and _meta around them.
type Result struct {
	// Fields is the encoded members of the result object, without braces: `"content":[…],"structuredContent":{…}`.
	Fields []byte
	// Meta is encoded members for _meta, without braces, or nil.
	Meta []byte
	// IsError tells that Fields carries isError: such results are never stored.
	IsError bool
	// ErrorKind is ToolError.Kind where IsError.
	ErrorKind string
	// Hints, where set, are the caching hints that modern clients get with lists and reads.
	Hints *Hints
	// Rows tells what was found, where the target says.
	Rows Rows
	// Input, where set, replaces Fields: the user is asked first.
	Input *InputRequired
	Cache CacheInfo
	// Packed, where set, keeps Fields in compressed form for all who get this result: it is one that is kept.
	Packed *Packed
}

// Packing is a content coding that Fields are kept in.
type Packing uint8

// The codings.
const (
	PackGzip Packing = iota
	PackZstd
	packings
)

// Packed keeps compressed Fields, once somebody has asked for them. It is safe for concurrent use.
type Packed struct {
	// Grew, where set, is told that a form is there from now on.
	Grew func()

	forms [packings]struct {
		once sync.Once
		form atomic.Pointer[[]byte]
	}
}

// Form gives the compressed form in a coding, which pack makes at the first call; nil where it gains nothing. Nobody changes it.
func (p *Packed) Form(coding Packing, pack func() []byte) []byte {
	f := &p.forms[coding]
	f.once.Do(func() {
		form := pack()
		f.form.Store(&form)
		if form != nil && p.Grew != nil {
			p.Grew()
		}
	})
	return *f.form.Load()
}

// Bytes is the length of the forms; 0 while there is none.
func (p *Packed) Bytes() (n int) {
	if p == nil {
		return 0
	}
	for i := range p.forms {
		if form := p.forms[i].form.Load(); form != nil {
			n += len(*form)
		}
	}
	return n
}

// Rows says how many rows a result has.
type Rows uint8

// RowsUnknown is what a target says that has no rows.
const (
	RowsUnknown Rows = iota
	RowsNone
	RowsOne
	RowsMany
)

// Hints are the caching hints of SEP-2549.
type Hints struct {
	TTL   time.Duration
	Scope Scope // on the wire: public, or private for everything narrower
}

// InputRequired says what has to be asked before the call can go on. The handler is called again with an Answer.
type InputRequired struct {
	Requests []InputRequest
	// State is what the handler wants to see again in Answer.State. The network layer seals it.
	State []byte
}

// InputRequest is one question.
type InputRequest struct {
	Key    string
	Method string // elicitation/create
	Params []byte // encoded JSON object
}

// Answer is what came back for an InputRequired.
type Answer struct {
	State     []byte            // as the handler gave it, proven to be unchanged
	Responses map[string][]byte // encoded JSON by InputRequest.Key
}

func (a *Answer) clone() *Answer {
	d := &Answer{State: bytes.Clone(a.State), Responses: maps.Clone(a.Responses)}
	for k, v := range d.Responses {
		d.Responses[k] = bytes.Clone(v)
	}
	return d
}

// EventKind says what changed.
type EventKind uint8

// The kinds of events that clients can wait for.
const (
	ToolsChanged EventKind = iota
	PromptsChanged
	ResourcesChanged
	ResourceUpdated
)

// Event is something that streams may be waiting for.
type Event struct {
	Kind EventKind
	URI  string // ResourceUpdated: of which; "" for any of them
}

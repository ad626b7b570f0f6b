package mcp

import (
	"fmt"
	"strconv"
)

// Method is a request's or notification's method. The zero value is one that nobody knows.
type Method uint8

// The methods of all revisions.
const (
	MethodUnknown Method = iota
	Initialize
	Ping
	ServerDiscover
	SubscriptionsListen
	ToolsList
	ToolsCall
	ResourcesList
	ResourceTemplatesList
	ResourcesRead
	ResourcesSubscribe
	ResourcesUnsubscribe
	PromptsList
	PromptsGet
	CompletionComplete
	LoggingSetLevel
	NotificationInitialized
	NotificationCancelled
	NotificationProgress
	NotificationRootsChanged
	methodCount
)

// MethodCount is one more than the greatest Method, for arrays by method.
const MethodCount = int(methodCount)

var methodNames = [...]string{
	"unknown", "initialize", "ping", "server/discover", "subscriptions/listen", "tools/list", "tools/call",
	"resources/list", "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe",
	"prompts/list", "prompts/get", "completion/complete", "logging/setLevel", "notifications/initialized",
	"notifications/cancelled", "notifications/progress", "notifications/roots/list_changed",
}

// String gives the method's name on the wire; "unknown" for MethodUnknown.
func (m Method) String() string { return methodNames[m] }

func parseMethod(name []byte) Method {
	switch string(name) { // the compiler makes a binary search of this: faster than a map, and it allocates nothing
	case "initialize":
		return Initialize
	case "ping":
		return Ping
	case "server/discover":
		return ServerDiscover
	case "subscriptions/listen":
		return SubscriptionsListen
	case "tools/list":
		return ToolsList
	case "tools/call":
		return ToolsCall
	case "resources/list":
		return ResourcesList
	case "resources/templates/list":
		return ResourceTemplatesList
	case "resources/read":
		return ResourcesRead
	case "resources/subscribe":
		return ResourcesSubscribe
	case "resources/unsubscribe":
		return ResourcesUnsubscribe
	case "prompts/list":
		return PromptsList
	case "prompts/get":
		return PromptsGet
	case "completion/complete":
		return CompletionComplete
	case "logging/setLevel":
		return LoggingSetLevel
	case "notifications/initialized":
		return NotificationInitialized
	case "notifications/cancelled":
		return NotificationCancelled
	case "notifications/progress":
		return NotificationProgress
	case "notifications/roots/list_changed":
		return NotificationRootsChanged
	}
	return MethodUnknown
}

// MessageKind tells the three forms of a JSON-RPC message apart.
type MessageKind uint8

// The kinds of messages.
const (
	KindRequest MessageKind = iota
	KindNotification
	KindResponse
)

// MaxIDBytes bounds a request's id: it is echoed, and kept while the request runs.
const MaxIDBytes = 1024

// Request is one scanned message. Every slice is part of the message's bytes, or, where the message escapes a text, a
// copy: none may be used once the message's buffer is given back. The zero value is ready for Scan.
type Request struct {
	Kind       MessageKind
	Method     Method
	MethodName []byte
	ID         []byte // raw JSON: a string or an integer; nil for a notification

	Params []byte // raw JSON object, nil where absent

	// Fields of params, whatever the method. Texts are unescaped; nil is absent.
	Name           []byte
	URI            []byte
	Cursor         []byte
	Arguments      []byte // raw JSON object
	InputResponses []byte // raw JSON object
	RequestState   []byte
	Meta           Meta

	// Result and Error are the raw JSON of a KindResponse; one of them is nil.
	Result, Error []byte

	keys [][]byte // the scanner's stack, kept for the next message
}

// Meta is params._meta.
type Meta struct {
	Raw                []byte // raw JSON object, nil where absent
	ProtocolVersion    []byte
	ClientCapabilities []byte // raw JSON object
	ClientInfo         []byte // raw JSON
	LogLevel           []byte
	ProgressToken      []byte // raw JSON: a string or a number
	TraceParent        []byte
	TimeoutMs          int64 // 0 where absent
}

// Reset clears the request for its next use and keeps its buffers.
func (r *Request) Reset() {
	clear(r.keys[:cap(r.keys)])
	*r = Request{keys: r.keys[:0]}
}

// HasArguments tells whether params carried arguments.
func (r *Request) HasArguments() bool { return r.Arguments != nil }

// Scan reads one message. The error is of CodeParse, CodeInvalidRequest or CodeInvalidParams; r.ID is set where it
// could be read, also then.
func (r *Request) Scan(data []byte) *Error {
	s := scanner{b: data, keys: r.keys[:0]}
	fault := r.scan(&s)
	if s.err != "" {
		r.ID = nil // what stands after the fault could be another id
		fault = Errorf(CodeParse, "malformed JSON at byte %d: %s", s.p, s.err)
	}
	r.keys = s.keys
	return fault
}

func (r *Request) scan(s *scanner) *Error {
	if s.peek() != '{' {
		if s.value() && s.end() {
			return Errorf(CodeInvalidRequest, "a message must be a JSON object")
		}
		return nil
	}
	s.open()
	var (
		seen             map[string]struct{}
		version, hasID   bool
		hasMethod        bool
		badID, badParams bool
		badField         string
		base             = len(s.keys)
	)
	for first := true; s.next(first, '}'); first = false {
		key, ok := s.key(base, &seen)
		if !ok {
			return nil
		}
		if string(key) == "params" {
			if s.peek() == '{' {
				start := s.p
				if badField = r.scanParams(s); s.err != "" {
					return nil
				}
				r.Params = s.b[start:s.p]
				continue
			}
			badParams = true
		}
		v, ok := s.extent()
		if !ok {
			return nil
		}
		switch string(key) {
		case "jsonrpc":
			version = string(v) == `"2.0"`
		case "id":
			hasID, r.ID = true, v
			badID = !validID(v)
		case "method":
			if name, isText := Text(v); isText {
				hasMethod, r.MethodName = true, name
				r.Method = parseMethod(name)
			} else {
				return s.invalid("method must be a string")
			}
		case "result":
			r.Result = v
		case "error":
			r.Error = v
		}
	}
	if s.err != "" || !s.end() {
		return nil
	}
	if badID {
		id := r.ID
		r.ID = nil
		if hasMethod || string(id) != "null" {
			return Errorf(CodeInvalidRequest, "id must be a string or an integer of at most %d bytes", MaxIDBytes)
		}
	}
	switch {
	case !version:
		return Errorf(CodeInvalidRequest, `jsonrpc must be "2.0"`)
	case !hasMethod:
		if r.Result == nil && r.Error == nil {
			return Errorf(CodeInvalidRequest, "method is missing")
		}
		if r.Result != nil && r.Error != nil {
			return Errorf(CodeInvalidRequest, "a response has a result or an error, not both")
		}
		r.Kind = KindResponse
		return nil
	case r.Result != nil || r.Error != nil:
		return Errorf(CodeInvalidRequest, "a request has no result and no error")
	case !hasID:
		r.Kind = KindNotification
	}
	if badParams {
		return Errorf(CodeInvalidParams, "params must be an object")
	}
	if badField != "" {
		return Errorf(CodeInvalidParams, "params.%s", badField)
	}
	return nil
}

// invalid walks the rest of the message, so that a malformed one is told as such, and gives an invalid request.
func (s *scanner) invalid(format string, args ...any) *Error {
	for s.next(false, '}') {
		s.peek()
		if _, _, ok := s.text(); !ok || s.peek() != ':' {
			s.fail("expected a key")
			return nil
		}
		s.p++
		if !s.value() {
			return nil
		}
	}
	if s.err != "" || !s.end() {
		return nil
	}
	return &Error{Code: CodeInvalidRequest, Message: fmt.Sprintf(format, args...)}
}

// validID tells whether v, a JSON value, is an id: the specification allows strings and integers.
func validID(v []byte) bool {
	if len(v) > MaxIDBytes {
		return false
	}
	if v[0] == '"' {
		return true
	}
	if v[0] != '-' && (v[0] < '0' || v[0] > '9') {
		return false
	}
	for _, c := range v[1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// scanParams walks params. It gives what is wrong with the type of a field, "" for nothing.
func (r *Request) scanParams(s *scanner) (bad string) {
	if !s.open() {
		return ""
	}
	base := len(s.keys)
	var seen map[string]struct{}
	for first := true; s.next(first, '}'); first = false {
		key, ok := s.key(base, &seen)
		if !ok {
			return ""
		}
		if string(key) == "_meta" && s.peek() == '{' {
			start := s.p
			if b := r.Meta.scan(s); b != "" {
				bad = b
			}
			if s.err != "" {
				return ""
			}
			r.Meta.Raw = s.b[start:s.p]
			continue
		}
		v, ok := s.extent()
		if !ok {
			return ""
		}
		good := true
		switch string(key) {
		case "name":
			r.Name, good = Text(v)
		case "uri":
			r.URI, good = Text(v)
		case "cursor":
			r.Cursor, good = Text(v)
		case "requestState":
			r.RequestState, good = Text(v)
		case "arguments":
			r.Arguments, good = v, v[0] == '{'
		case "inputResponses":
			r.InputResponses, good = v, v[0] == '{'
		case "_meta":
			good = false
		}
		if !good {
			bad = string(key) + " is of the wrong type"
		}
	}
	s.keys = s.keys[:base]
	return bad
}

func (m *Meta) scan(s *scanner) (bad string) {
	if !s.open() {
		return ""
	}
	base := len(s.keys)
	var seen map[string]struct{}
	for first := true; s.next(first, '}'); first = false {
		key, ok := s.key(base, &seen)
		if !ok {
			return ""
		}
		v, ok := s.extent()
		if !ok {
			return ""
		}
		good := true
		switch string(key) {
		case "io.modelcontextprotocol/protocolVersion":
			m.ProtocolVersion, good = Text(v)
		case "io.modelcontextprotocol/clientCapabilities":
			m.ClientCapabilities, good = v, v[0] == '{'
		case "io.modelcontextprotocol/clientInfo":
			m.ClientInfo, good = v, v[0] == '{'
		case "io.modelcontextprotocol/logLevel":
			m.LogLevel, good = Text(v)
		case "progressToken":
			m.ProgressToken = v
			good = len(v) <= MaxIDBytes && (v[0] == '"' || v[0] == '-' || v[0] >= '0' && v[0] <= '9')
		case "traceparent":
			m.TraceParent, good = Text(v)
		case "millrace/timeoutMs":
			n, err := strconv.ParseInt(string(v), 10, 64)
			m.TimeoutMs, good = n, err == nil && n > 0
		}
		if !good {
			bad = "_meta[" + strconv.Quote(string(key)) + "] is of the wrong type"
		}
	}
	s.keys = s.keys[:base]
	return bad
}

// MaxBatch is how many messages a batch may hold.
const MaxBatch = 100

// IsBatch tells whether data is, or tries to be, a JSON array.
func IsBatch(data []byte) bool {
	s := scanner{b: data}
	return s.peek() == '['
}

// ScanBatch gives the messages of a JSON-RPC batch, unread. The error is of CodeParse or CodeInvalidRequest.
func ScanBatch(data []byte) ([][]byte, *Error) {
	s := scanner{b: data}
	s.peek()
	if !s.value() || !s.end() {
		return nil, Errorf(CodeParse, "malformed JSON at byte %d: %s", s.p, s.err)
	}
	var messages [][]byte
	Elements(data, func(v []byte) bool {
		messages = append(messages, v)
		return len(messages) <= MaxBatch
	})
	switch {
	case len(messages) == 0:
		return nil, Errorf(CodeInvalidRequest, "a batch must not be empty")
	case len(messages) > MaxBatch:
		return nil, Errorf(CodeInvalidRequest, "a batch may hold at most %d messages", MaxBatch)
	}
	return messages, nil
}

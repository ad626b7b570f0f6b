package mcp

import "strconv"

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

	keys []key // the scanner's stack, kept for the next message
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

// keptKeys bounds the stack that a Request keeps for its next message, in keys: 4 KiB.
const keptKeys = 256

// Reset clears the request for its next use, so that it keeps no message alive; its stack stays where it is small.
func (r *Request) Reset() {
	if cap(r.keys) > keptKeys {
		r.keys = nil
	}
	*r = Request{keys: r.keys[:0]}
}

// Scan reads one message into r, which must be zero or Reset. The error is of CodeParse, CodeInvalidRequest or
// CodeInvalidParams; r.ID is set where it could be read, also then. Other fields mean nothing after an error.
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

// envelope is what scan sees of the outermost object beside the fields that it keeps.
type envelope struct {
	version   bool
	hasID     bool
	goodID    bool
	hasMethod bool   // a member of that name, of whatever type
	badField  string // a field of params that is of the wrong type
}

// scan walks the message. A fault of the JSON is left in s.err and goes before every other.
func (r *Request) scan(s *scanner) *Error {
	if s.peek() != '{' {
		if s.value() && s.end() {
			return Errorf(CodeInvalidRequest, "a message must be a JSON object")
		}
		return nil
	}
	s.open()
	var e envelope
	base := len(s.keys)
	for first := true; s.next(first, '}'); first = false {
		name, ok := s.key()
		if !ok {
			return nil
		}
		if string(name) == "params" && s.peek() == '{' {
			start := s.p
			if e.badField = r.scanParams(s); s.err != "" {
				return nil
			}
			r.Params = s.b[start:s.p]
			continue
		}
		v, ok := s.extent()
		if !ok {
			return nil
		}
		switch string(name) {
		case "jsonrpc":
			text, _ := Text(v)
			e.version = string(text) == "2.0"
		case "id":
			e.hasID, e.goodID = true, validID(v)
			r.ID = v
		case "method":
			e.hasMethod = true
			r.MethodName, _ = Text(v)
			r.Method = parseMethod(r.MethodName)
		case "params":
			e.badField = "params must be an object"
		case "result":
			r.Result = v
		case "error":
			r.Error = v
		}
	}
	if !s.leave(base) || !s.end() {
		return nil
	}
	return r.judge(e)
}

// judge tells whether a message that is well-formed JSON is a well-formed message, and of which kind.
func (r *Request) judge(e envelope) *Error {
	if e.hasID && !e.goodID {
		id := r.ID
		r.ID = nil
		// An error that answers no request in particular has the id null.
		if string(id) != "null" || e.hasMethod || r.Error == nil {
			return Errorf(CodeInvalidRequest, "id must be a string or an integer of at most %d bytes", MaxIDBytes)
		}
	}
	switch {
	case !e.version:
		return Errorf(CodeInvalidRequest, `jsonrpc must be "2.0"`)
	case !e.hasMethod:
		return r.judgeResponse()
	case r.MethodName == nil:
		return Errorf(CodeInvalidRequest, "method must be a string")
	case r.Result != nil || r.Error != nil:
		return Errorf(CodeInvalidRequest, "a request has no result and no error")
	case !e.hasID:
		r.Kind = KindNotification
	}
	if e.badField != "" {
		return Errorf(CodeInvalidParams, "%s", e.badField)
	}
	return nil
}

func (r *Request) judgeResponse() *Error {
	switch {
	case r.Result == nil && r.Error == nil:
		return Errorf(CodeInvalidRequest, "method is missing")
	case r.Result != nil && r.Error != nil:
		return Errorf(CodeInvalidRequest, "a response has a result or an error, not both")
	case r.Result != nil && r.ID == nil:
		return Errorf(CodeInvalidRequest, "a result needs the id of its request")
	case r.Result != nil && r.Result[0] != '{':
		return Errorf(CodeInvalidRequest, "result must be an object")
	case r.Error != nil && r.Error[0] != '{':
		return Errorf(CodeInvalidRequest, "error must be an object")
	}
	r.Kind = KindResponse
	return nil
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
	for first := true; s.next(first, '}'); first = false {
		name, ok := s.key()
		if !ok {
			return ""
		}
		if string(name) == "_meta" && s.peek() == '{' {
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
		switch string(name) {
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
			bad = "params." + string(name) + " is of the wrong type"
		}
	}
	s.leave(base)
	return bad
}

func (m *Meta) scan(s *scanner) (bad string) {
	if !s.open() {
		return ""
	}
	base := len(s.keys)
	for first := true; s.next(first, '}'); first = false {
		name, ok := s.key()
		if !ok {
			return ""
		}
		v, ok := s.extent()
		if !ok {
			return ""
		}
		good := true
		switch string(name) {
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
			bad = "params._meta[" + strconv.Quote(string(name)) + "] is of the wrong type"
		}
	}
	s.leave(base)
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

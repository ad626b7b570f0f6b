package mcp

import (
	"errors"
	"fmt"
)

// Code is a JSON-RPC error code. Only the network layer turns it into an HTTP status.
type Code int

// The codes that the specification names. -32000 to -32019 are left alone on purpose: no new use may be given to them.
const (
	CodeParse              Code = -32700
	CodeInvalidRequest     Code = -32600
	CodeMethodNotFound     Code = -32601
	CodeInvalidParams      Code = -32602
	CodeInternal           Code = -32603
	CodeHeaderMismatch     Code = -32020
	CodeMissingCapability  Code = -32021
	CodeUnsupportedVersion Code = -32022
	// CodeResourceNotFound is what legacy revisions say for a resource that is not there; modern says CodeInvalidParams.
	CodeResourceNotFound Code = -32002
)

// Error is a protocol error with a message for the client. The cause is for the log alone.
type Error struct {
	Code    Code
	Message string
	Data    []byte // encoded JSON, nil for none
	Cause   error
}

// Errorf makes an Error with a formatted message and no cause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s (%d): %v", e.Message, e.Code, e.Cause)
	}
	return fmt.Sprintf("%s (%d)", e.Message, e.Code)
}

func (e *Error) Unwrap() error { return e.Cause }

// ToolError is a failure of the tool itself: the client gets a result with isError and this message. Kind is a short
// fixed word for metrics ("timeout", "overloaded", "unavailable", "refused", "sql").
type ToolError struct {
	Kind    string
	Message string
	// Meta is encoded members for the result's _meta, without braces, or nil.
	Meta  []byte
	Cause error
}

func (e *ToolError) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

func (e *ToolError) Unwrap() error { return e.Cause }

// ErrUnknownFate is in the chain of a write's error where nobody knows whether it was committed.
var ErrUnknownFate = errors.New("the connection broke during the commit")

// AsError finds the protocol error in err, if there is one.
func AsError(err error) (*Error, bool) {
	var e *Error
	return e, errors.As(err, &e)
}

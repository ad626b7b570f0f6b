// Package mcp is the vocabulary of the Model Context Protocol that every other package shares: the envelope scanner,
// the protocol's revisions, header codec, SSE framing and error codes, and the types that travel along the way of a
// request (Request, Call, Result, Error).
//
// It knows no network, no database and no configuration, and imports nothing of this module. A request is scanned once
// into a Request whose fields are slices of the caller's bytes; a result is a Result whose bytes are already encoded.
package mcp

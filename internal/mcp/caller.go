package mcp

import (
	"encoding/binary"
	"slices"
)

// Scope says between whom a cached result may be shared. The zero value is the narrowest.
type Scope uint8

// The cache scopes, narrowest first.
const (
	ScopePrivate Scope = iota // one tenant, one subject, one set of scopes
	ScopeTenant               // one tenant, one set of scopes
	ScopePublic               // everybody who may call the tool
)

// ParseScope finds the scope that s names.
func ParseScope(s string) (Scope, bool) {
	switch s {
	case "private":
		return ScopePrivate, true
	case "tenant":
		return ScopeTenant, true
	case "public":
		return ScopePublic, true
	}
	return ScopePrivate, false
}

// String gives the scope's name in the configuration.
func (s Scope) String() string { return [...]string{"private", "tenant", "public"}[s] }

// Principal is who calls, apart from the session. It is immutable and shared between requests.
type Principal struct {
	Tenant  string
	Subject string
	Scopes  []string // sorted, without duplicates

	keys [3][]byte // by Scope: the identity part of every key
}

// NewPrincipal makes a principal with its own sorted copy of the scopes.
func NewPrincipal(tenant, subject string, scopes []string) *Principal {
	scopes = slices.Compact(slices.Sorted(slices.Values(scopes)))
	p := &Principal{Tenant: tenant, Subject: subject, Scopes: scopes}
	for s := ScopePrivate; s <= ScopePublic; s++ {
		key := []byte{byte(s)}
		if s <= ScopeTenant {
			key = appendKeyText(key, tenant)
			key = binary.AppendUvarint(key, uint64(len(scopes)))
			for _, scope := range scopes {
				key = appendKeyText(key, scope)
			}
		}
		if s == ScopePrivate {
			key = appendKeyText(key, subject)
		}
		p.keys[s] = key
	}
	return p
}

// Anonymous is the principal of callers without credentials: one subject of its own.
var Anonymous = NewPrincipal("", "anonymous", nil)

// Has tells whether the principal holds every scope in need.
func (p *Principal) Has(need []string) bool {
	for _, n := range need {
		if _, ok := slices.BinarySearch(p.Scopes, n); !ok {
			return false
		}
	}
	return true
}

// ScopeKey gives the identity part of a key shared at scope s. The caller must not change it.
func (p *Principal) ScopeKey(s Scope) []byte { return p.keys[s] }

// Caller is who calls and, for legacy revisions, in which session.
type Caller struct {
	*Principal
	Session string // "" without a session
}

// appendKeyText writes s so that no two sequences of texts give the same bytes: its length goes before it.
func appendKeyText[S ~string | ~[]byte](dst []byte, s S) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

package mcp

// Revision is one published version of the protocol. The zero value is no revision; later revisions compare greater.
type Revision uint8

// The revisions that Millrace speaks, oldest first.
const (
	RevisionNone Revision = iota
	Revision20241105
	Revision20250326
	Revision20250618
	Revision20251125
	Revision20260728
)

const (
	// LatestLegacy is what initialize negotiates when the client asks for a revision that is not known.
	LatestLegacy = Revision20251125
	// Modern is the stateless revision.
	Modern = Revision20260728
)

var revisionNames = [...]string{"", "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"}

// String gives the date that names the revision on the wire, "" for RevisionNone.
func (r Revision) String() string { return revisionNames[r] }

// IsModern tells whether requests of this revision carry all that they need (2026-07-28), without a session.
func (r Revision) IsModern() bool { return r >= Revision20260728 }

// ParseRevision finds the revision that s names exactly.
func ParseRevision[S ~string | ~[]byte](s S) (Revision, bool) {
	switch string(s) {
	case "2024-11-05":
		return Revision20241105, true
	case "2025-03-26":
		return Revision20250326, true
	case "2025-06-18":
		return Revision20250618, true
	case "2025-11-25":
		return Revision20251125, true
	case "2026-07-28":
		return Revision20260728, true
	}
	return RevisionNone, false
}

package registry

import "strings"

// Match is a precondition on the etag of what is written.
type Match struct {
	any  bool
	etag string
}

// Preconditions without an etag.
var (
	// Absent: no If-Match was given; a Put then only creates.
	Absent = Match{}
	// Any: something must exist.
	Any = Match{any: true}
)

// ParseMatch reads an If-Match header in every spelling that clients send.
func ParseMatch(header string) Match {
	v := strings.TrimSpace(header)
	v = strings.TrimPrefix(v, "W/")
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		v = v[1 : len(v)-1]
	}
	if v == "*" {
		return Any
	}
	return Match{etag: v}
}

// IsAbsent tells whether there is no precondition.
func (m Match) IsAbsent() bool { return m == Absent }

// Allows tells whether something that exists with this etag may be written.
func (m Match) Allows(etag string) bool { return m.any || m.etag == "" || m.etag == etag }

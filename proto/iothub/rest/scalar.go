package rest

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Secret is a key in a document. It is plain text in JSON, where it must be, and
// stars everywhere else. The empty one is null in JSON.
type Secret string

// String prints stars.
func (s Secret) String() string { return "***" }

// GoString prints stars.
func (s Secret) GoString() string { return "***" }

// LogValue prints stars.
func (s Secret) LogValue() slog.Value { return slog.StringValue("***") }

// Reveal returns the key itself.
func (s Secret) Reveal() string { return string(s) }

// MarshalJSON writes the key, or null.
func (s Secret) MarshalJSON() ([]byte, error) { return marshalText(string(s)) }

// UnmarshalJSON reads a string or null.
func (s *Secret) UnmarshalJSON(b []byte) error { return unmarshalText(b, (*string)(s)) }

// Text is a string that is null in JSON when it is empty.
type Text string

// MarshalJSON writes the string, or null.
func (t Text) MarshalJSON() ([]byte, error) { return marshalText(string(t)) }

// UnmarshalJSON reads a string or null.
func (t *Text) UnmarshalJSON(b []byte) error { return unmarshalText(b, (*string)(t)) }

func marshalText(s string) ([]byte, error) {
	if s == "" {
		return []byte("null"), nil
	}
	return json.Marshal(s)
}

func unmarshalText(b []byte, to *string) error {
	*to = ""
	if err := json.Unmarshal(b, to); err != nil {
		// The value may be a secret: say only where it went wrong.
		return fmt.Errorf("neither a string nor null")
	}
	return nil
}

// Time is a time as a hub writes it: UTC, up to seven digits of a second, and year
// one for "never".
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.9999999Z"

// Format returns the wire form of t.
func Format(t time.Time) string { return t.UTC().Format(timeLayout) }

// MarshalJSON writes the wire form.
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(Format(t.Time)) }

// UnmarshalJSON reads RFC 3339, also without a zone (then UTC), and null as never.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	if s == "" {
		*t = Time{}
		return nil
	}
	if len(s) > len("2006-01-02") && !strings.ContainsAny(s[len("2006-01-02"):], "Z+-") {
		s += "Z"
	}
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("time: %w", err)
	}
	t.Time = v.UTC()
	return nil
}

package sas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// ErrKey is returned for text that is no base64 key. It never holds the text.
var ErrKey = errors.New("key is not base64 of at least one byte")

const stars = "***"

// Key is a symmetric key of an identity or a policy. Every way to print or encode
// it gives stars; only Base64 reveals it.
type Key []byte

// ParseKey reads a key in standard base64. The error is ErrKey.
func ParseKey(s string) (Key, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil, ErrKey
	}
	return Key(b), nil
}

// Sign returns the HMAC-SHA256 of data. The error is always nil; it is there so
// that the method fits New and signers that can fail.
func (k Key) Sign(data []byte) ([]byte, error) {
	h := hmac.New(sha256.New, k)
	h.Write(data)
	return h.Sum(nil), nil
}

// Derive returns the key of one registration in an enrollment group whose key is k.
// The result signs like any other key and tells nothing of k.
func (k Key) Derive(registration string) Key {
	h := hmac.New(sha256.New, k)
	h.Write([]byte(registration))
	return h.Sum(nil)
}

// Base64 reveals the key in the form that ParseKey reads.
func (k Key) Base64() string { return base64.StdEncoding.EncodeToString(k) }

// String returns stars.
func (k Key) String() string { return stars }

// GoString returns stars.
func (k Key) GoString() string { return stars }

// Format prints stars for every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, stars) }

// LogValue returns stars.
func (k Key) LogValue() slog.Value { return slog.StringValue(stars) }

// MarshalJSON returns stars as a JSON string.
func (k Key) MarshalJSON() ([]byte, error) { return []byte(`"` + stars + `"`), nil }

// MarshalText returns stars.
func (k Key) MarshalText() ([]byte, error) { return []byte(stars), nil }

var (
	_ fmt.Formatter  = Key(nil)
	_ slog.LogValuer = Key(nil)
)

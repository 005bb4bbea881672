package amqp

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// guid is a UUID in network byte order.
type guid [16]byte

// newGUID makes a random UUID (version 4).
func newGUID() (g guid) {
	_, _ = rand.Read(g[:]) // never fails, see crypto/rand
	g[6] = g[6]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

// parseGUID reads a UUID in its canonical form, in any case.
func parseGUID(s string) (g guid, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, false
	}
	_, err := hex.Decode(g[:], []byte(strings.ReplaceAll(s, "-", "")))
	return g, err == nil && strings.Count(s, "-") == 4
}

// String returns the canonical form, in lower case.
func (g guid) String() string { return wire.UUID(g).String() }

// tag returns the delivery tag for a lock token: the bytes as .NET orders them,
// the first three groups little-endian.
func (g guid) tag() []byte {
	return []byte{
		g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6],
		g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15],
	}
}

// hex returns the 32 digits.
func (g guid) hex() string { return hex.EncodeToString(g[:]) }

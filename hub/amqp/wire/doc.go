// Package wire is the AMQP 1.0 codec: types, frames, performatives, SASL
// frames, delivery states and message sections.
//
// Encoding appends to a byte slice that the caller owns; decoding reads from a
// byte slice and never changes it. Nothing here uses reflection, keeps state
// between calls or starts goroutines. A [Value] carries its exact AMQP type,
// because peers insist on it: an int is not a uint and a symbol is not a
// string.
//
// Input is taken to be hostile. Sizes are checked before anything is
// allocated, nesting is limited to [MaxDepth], and the number of elements of
// one decoded frame or message to [MaxElements]. Every decoding function
// returns an error that wraps [ErrDecode] when the bytes are not AMQP.
package wire

import "errors"

// ErrDecode is wrapped by every error of a decoding function.
var ErrDecode = errors.New("amqp: malformed input")

const (
	// MaxDepth is how deep compound values may be nested.
	MaxDepth = 24
	// MaxElements is how many values one frame or message may hold in all.
	MaxElements = 1 << 16
)

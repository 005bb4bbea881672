package route

import (
	"fmt"
	"unicode/utf8"
)

// tokenKind is the kind of a token; keywords and operators have a kind each.
type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokString
	tokOpenString // a string without end, or with a bad escape
	tokInteger
	tokHex
	tokReal
	tokTrue
	tokFalse
	tokNull
	tokUndefined
	tokAnd
	tokOr
	tokNot
	tokSelect
	tokFrom
	tokWhere
	tokInto
	tokPlus
	tokMinus
	tokStar
	tokSlash
	tokPercent
	tokConcat
	tokCoalesce
	tokEq
	tokNe
	tokLt
	tokLe
	tokGt
	tokGe
	tokOpenParen
	tokCloseParen
	tokOpenBrace
	tokCloseBrace
	tokComma
	tokSystem  // $name, $body.path
	tokName    // a bare word
	tokBracket // a bare word that holds [ or ]
	tokUnknown // one character that starts no token
)

// token is a piece of the text: text[start:end].
type token struct {
	kind  tokenKind
	text  string
	start int
}

func (t token) end() int { return t.start + len(t.text) }

// describe names the token in an error message.
func (t token) describe() string {
	switch t.kind {
	case tokEnd:
		return "the end of the text"
	case tokString:
		return "the string " + shorten(t.text)
	case tokOpenString:
		return "a string without end"
	case tokInteger, tokHex, tokReal:
		return "the number " + shorten(t.text)
	case tokName:
		return fmt.Sprintf("the name %q", shorten(t.text))
	case tokAnd, tokOr, tokNot, tokSelect, tokFrom, tokWhere, tokInto, tokTrue, tokFalse, tokNull, tokUndefined:
		return fmt.Sprintf("the reserved word %q", t.text)
	default:
		return fmt.Sprintf("%q", shorten(t.text))
	}
}

// shorten keeps error messages readable and bounded.
func shorten(s string) string {
	const most = 40
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	n := 0
	for i := range s {
		if n == most {
			return s[:i] + "…"
		}
		n++
	}
	return s
}

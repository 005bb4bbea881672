package route

import (
	"strings"
)

// lexer cuts a text into tokens, the longest first; on equal length the order of
// spec edgehub-routing 3.1 decides. It never fails: what fits nothing is a token
// of kind tokUnknown, tokBracket or tokOpenString, and the parser complains.
type lexer struct {
	text string
	pos  int
	// comment is the last comment that was skipped: text[comment[0]:comment[1]].
	comment [2]int
}

// next returns the next token and moves behind it.
func (l *lexer) next() token {
	l.skip()
	if l.pos >= len(l.text) {
		return token{kind: tokEnd, start: len(l.text)}
	}
	kind, n := l.longest()
	t := token{kind: kind, text: l.text[l.pos : l.pos+n], start: l.pos}
	l.pos += n
	return t
}

// skip moves over blanks and closed comments.
func (l *lexer) skip() {
	for l.pos < len(l.text) {
		switch l.text[l.pos] {
		case ' ', '\t', '\r', '\n':
			l.pos++
			continue
		case '/':
			if n := commentLength(l.text[l.pos:]); n > 0 {
				l.comment = [2]int{l.pos, l.pos + n}
				l.pos += n
				continue
			}
		}
		return
	}
}

// commentLength returns the length of the comment at the start of s; 0 if there is
// none or it has no end.
func commentLength(s string) int {
	if !strings.HasPrefix(s, "/*") {
		return 0
	}
	end := strings.Index(s[2:], "*/")
	if end < 0 {
		return 0
	}
	return 2 + end + 2
}

// longest finds the token at the current position, which is not a blank.
func (l *lexer) longest() (tokenKind, int) {
	s := l.text[l.pos:]
	word := runLength(s, false)
	path := runLength(s, true)
	if s[0] == '"' || s[0] == '\'' {
		// A quoted string and a run of word characters may start at the same
		// apostrophe: 'a'x is one word, 'a' x is a string and a word.
		if n, closed := stringLength(s); n >= path {
			if closed {
				return tokString, n
			}
			return tokOpenString, n
		}
	}
	switch {
	case path == 0:
		return symbol(s)
	case s[0] == '!' && word == 1 && path == 1 && len(s) > 1 && s[1] == '=':
		return tokNe, 2
	case s[0] == '$' && path > 1:
		return tokSystem, path
	case path > word:
		return tokBracket, path
	default:
		return classify(s[:word]), word
	}
}

// symbol finds a token that starts with a character which no word may hold.
func symbol(s string) (tokenKind, int) {
	if len(s) > 1 {
		switch s[:2] {
		case "<>":
			return tokNe, 2
		case "<=":
			return tokLe, 2
		case ">=":
			return tokGe, 2
		case "??":
			return tokCoalesce, 2
		}
	}
	switch s[0] {
	case '(':
		return tokOpenParen, 1
	case ')':
		return tokCloseParen, 1
	case '{':
		return tokOpenBrace, 1
	case '}':
		return tokCloseBrace, 1
	case ',':
		return tokComma, 1
	case '/':
		return tokSlash, 1
	case '=':
		return tokEq, 1
	case '<':
		return tokLt, 1
	case '>':
		return tokGt, 1
	}
	return tokUnknown, 1 // all characters excluded from words are ASCII
}

// words are the runs of word characters that mean something else than a name. The
// lower-case literals are exact, the rest is compared without case.
var words = map[string]tokenKind{
	"+": tokPlus, "-": tokMinus, "*": tokStar, "%": tokPercent, "||": tokConcat,
	"true": tokTrue, "false": tokFalse, "null": tokNull, "undefined": tokUndefined,
}

var foldedWords = map[string]tokenKind{
	"and": tokAnd, "or": tokOr, "not": tokNot,
	"select": tokSelect, "from": tokFrom, "where": tokWhere, "into": tokInto,
}

// classify tells what a whole run of word characters is.
func classify(run string) tokenKind {
	if kind, ok := words[run]; ok {
		return kind
	}
	if len(run) <= len("select") {
		if kind, ok := foldedWords[asciiLower(run)]; ok {
			return kind
		}
	}
	return numberKindOf(run)
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// numberKindOf tells whether a run is a number: -?d+, 0xh+, -?d*.d+(e±?d+)? or
// -?d+e±?d+; anything else is a name.
func numberKindOf(run string) tokenKind {
	if len(run) > 2 && run[0] == '0' && (run[1] == 'x' || run[1] == 'X') {
		if countWhile(run[2:], isHexDigit) == len(run)-2 {
			return tokHex
		}
		return tokName
	}
	s := strings.TrimPrefix(run, "-")
	whole := countWhile(s, isDigit)
	s = s[whole:]
	if s == "" {
		if whole > 0 {
			return tokInteger
		}
		return tokName
	}
	if s[0] == '.' {
		fraction := countWhile(s[1:], isDigit)
		if fraction == 0 {
			return tokName
		}
		s = s[1+fraction:]
	} else if whole == 0 {
		return tokName
	}
	if s == "" || isExponent(s) {
		return tokReal
	}
	return tokName
}

func isExponent(s string) bool {
	if s[0] != 'e' && s[0] != 'E' {
		return false
	}
	s = s[1:]
	if s != "" && (s[0] == '+' || s[0] == '-') {
		s = s[1:]
	}
	return s != "" && countWhile(s, isDigit) == len(s)
}

func countWhile(s string, ok func(byte) bool) int {
	for i := range len(s) {
		if !ok(s[i]) {
			return i
		}
	}
	return len(s)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHexDigit(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// runLength counts the word characters at the start of s; with brackets, those of
// a $ path.
func runLength(s string, brackets bool) int {
	for i := range len(s) {
		switch s[i] {
		case '(', ')', '<', '>', '@', ',', ';', ':', '\\', '"', '/', '?', '=', '{', '}', ' ', '\t', '\r', '\n':
			return i
		case '[', ']':
			if !brackets {
				return i
			}
		}
	}
	return len(s)
}

// stringLength measures the quoted string at the start of s. Without a closing
// quote it measures what fits, up to a bad escape or the end.
func stringLength(s string) (n int, closed bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case s[0]:
			return i + 1, true
		case '\\':
			e := escapeLength(s[i:])
			if e == 0 {
				return i, false
			}
			i += e - 1
		}
	}
	return len(s), false
}

// Quoted reads the string literal at the start of s, which begins with a quote. n is
// its length in bytes; problem is empty, or says what is wrong behind those.
func Quoted(s string) (value string, n int, problem string) {
	n, closed := stringLength(s)
	if !closed {
		return "", n, openString(s, token{text: s[:n]})
	}
	return unescape(s[1 : n-1]), n, ""
}

// escapeLength measures \" \' \\ or \uXXXX at the start of s; 0 if it is neither.
func escapeLength(s string) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] {
	case '"', '\'', '\\':
		return 2
	case 'u':
		if len(s) >= 6 && countWhile(s[2:6], isHexDigit) == 4 {
			return 6
		}
	}
	return 0
}

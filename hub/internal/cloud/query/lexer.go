package query

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
)

// tokenKind is the kind of a token.
type tokenKind uint8

const (
	tokEnd    tokenKind = iota
	tokWord             // a name, key word or function
	tokRaw              // [[name]]
	tokString           // 'text' or "text"
	tokNumber
	tokSymbol
)

// token is a piece of the text; value is what it stands for.
type token struct {
	kind  tokenKind
	value string
	start int
}

// is tells whether t is this symbol or, in any case, this key word.
func (t token) is(what string) bool {
	return t.kind == tokSymbol && t.value == what || t.kind == tokWord && strings.EqualFold(t.value, what)
}

func (t token) describe() string {
	switch t.kind {
	case tokEnd:
		return "the end of the text"
	case tokString:
		return "a string"
	case tokNumber:
		return "the number " + shorten(t.value)
	}
	return fmt.Sprintf("%q", shorten(t.value))
}

// shorten keeps messages short, whatever the text.
func shorten(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// lexer cuts a text into tokens.
type lexer struct {
	text string
	pos  int
}

// blanks moves over blanks and closed comments.
func (l *lexer) blanks() {
	for {
		rest := strings.TrimLeft(l.text[l.pos:], " \t\r\n")
		l.pos = len(l.text) - len(rest)
		comment, _, closed := strings.Cut(rest, "*/")
		if !closed || !strings.HasPrefix(comment, "/*") {
			return
		}
		l.pos += len(comment) + len("*/")
	}
}

// next returns the next token and moves behind it; problem says why there is none.
func (l *lexer) next() (t token, problem string) {
	l.blanks()
	t.start = l.pos
	s := l.text[l.pos:]
	switch {
	case s == "":
		return t, ""
	case s[0] == '\'' || s[0] == '"':
		value, n, problem := route.Quoted(s)
		t.kind, t.value = tokString, value
		if problem != "" {
			t.start += n
		}
		l.pos += n
		return t, problem
	case '0' <= s[0] && s[0] <= '9':
		return l.number(t)
	case strings.HasPrefix(s, "[["):
		return l.raw(t)
	}
	if n := wordLength(s); n > 0 {
		t.kind, t.value = tokWord, s[:n]
		l.pos += n
		return t, ""
	}
	return l.symbol(t)
}

// segment returns what follows a dot: a name, which may begin with a digit and may be
// a key word.
func (l *lexer) segment() (t token, problem string) {
	l.blanks()
	t.start = l.pos
	s := l.text[l.pos:]
	if strings.HasPrefix(s, "[[") {
		return l.raw(t)
	}
	n := wordLength(s)
	if n == 0 {
		return t, `expected a name after ".", as in tags.place or tags.[[a name with blanks]]`
	}
	t.kind, t.value = tokWord, s[:n]
	l.pos += n
	return t, ""
}

// raw reads [[name]], in which everything but "]]" stands for itself.
func (l *lexer) raw(t token) (token, string) {
	name, _, closed := strings.Cut(l.text[l.pos+2:], "]]")
	if !closed {
		return t, `"[[" without "]]"`
	}
	if name == "" {
		return t, "a name in [[ ]] cannot be empty"
	}
	t.kind, t.value = tokRaw, name
	l.pos += len(name) + 4
	return t, ""
}

// number reads digits, a fraction and an exponent, or 0x and hexadecimal digits.
func (l *lexer) number(t token) (token, string) {
	s := l.text[l.pos:]
	n := 0
	digits := func(set string) {
		for n < len(s) && strings.IndexByte(set, s[n]) >= 0 {
			n++
		}
	}
	const decimal = "0123456789"
	if len(s) > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') {
		n = 2
		digits(decimal + "abcdefABCDEF")
	} else {
		digits(decimal)
		if n < len(s) && s[n] == '.' {
			n++
			digits(decimal)
		}
		if n < len(s) && (s[n] == 'e' || s[n] == 'E') {
			n++
			if n < len(s) && (s[n] == '+' || s[n] == '-') {
				n++
			}
			digits(decimal)
		}
	}
	n += wordLength(s[n:]) // so that 5abc is one bad number and not two tokens
	t.kind, t.value = tokNumber, s[:n]
	l.pos += n
	return t, ""
}

func (l *lexer) symbol(t token) (token, string) {
	s := l.text[l.pos:]
	t.kind = tokSymbol
	for _, two := range []string{"!=", "<>", "<=", ">="} {
		if strings.HasPrefix(s, two) {
			t.value = two
			l.pos += 2
			return t, ""
		}
	}
	if strings.IndexByte("=<>()[],.*+-/%", s[0]) < 0 {
		r, _ := utf8.DecodeRuneInString(s)
		return t, fmt.Sprintf("unknown character %q", r)
	}
	t.value = s[:1]
	l.pos++
	return t, ""
}

// wordLength measures letters, digits, "_" and "$" at the start of s.
func wordLength(s string) int {
	for i, r := range s {
		if r != '_' && r != '$' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return i
		}
	}
	return len(s)
}

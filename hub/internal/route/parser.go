package route

import (
	"strconv"
	"strings"
)

// Bounds of a text. A twin holds 32 KiB, so a deployment cannot reach them.
const (
	maxTextLength = 64 << 10
	maxNesting    = 200
)

// parser reads a condition or a route by recursive descent with one token of
// lookahead. It reports the first error by a panic of type *Error, which its entry
// points recover.
type parser struct {
	lex   lexer
	tok   token // the next token
	depth int
}

// parse runs a rule of the grammar on text.
func parse[T any](text string, rule func(p *parser) T) (result T, err error) {
	if len(text) > maxTextLength {
		return result, ErrorAt(text, maxTextLength, "the text is longer than %d bytes", maxTextLength)
	}
	p := &parser{lex: lexer{text: text}}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*Error)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	p.advance()
	return rule(p), nil
}

func (p *parser) advance() { p.tok = p.lex.next() }

// take moves on if the next token is of this kind.
func (p *parser) take(kind tokenKind) bool {
	if p.tok.kind != kind {
		return false
	}
	p.advance()
	return true
}

func (p *parser) fail(offset int, format string, args ...any) {
	panic(ErrorAt(p.lex.text, offset, format, args...))
}

// unexpected fails at the next token.
func (p *parser) unexpected(expected string) {
	t := p.tok
	switch t.kind {
	case tokOpenString:
		p.fail(t.start, "%s", openString(p.lex.text, t))
	case tokUnknown:
		p.fail(t.start, "unknown character %q: expected %s", t.text, expected)
	case tokBracket:
		p.fail(t.start, "%q cannot hold [ or ]: only a path after $body. has an index", shorten(t.text))
	default:
		p.fail(t.start, "expected %s, found %s", expected, t.describe())
	}
}

func openString(text string, t token) string {
	if t.end() < len(text) {
		return `bad escape in a string: expected \" \' \\ or \u and four hexadecimal digits`
	}
	return "a string without end: expected " + t.text[:1]
}

// level is the precedence of a binary operator; 0: none.
func level(kind tokenKind) int {
	switch kind {
	case tokCoalesce:
		return 1
	case tokOr:
		return 2
	case tokAnd:
		return 3
	case tokEq, tokNe:
		return 4
	case tokLt, tokLe, tokGt, tokGe:
		return 5
	case tokPlus, tokMinus, tokConcat:
		return 6
	case tokStar, tokSlash, tokPercent:
		return 7
	}
	return 0
}

// expr reads operators of at least this level; all of them associate to the left.
func (p *parser) expr(least int) *node {
	left := p.operand()
	for {
		t := p.tok
		precedence := level(t.kind)
		if precedence == 0 || precedence < least {
			return left
		}
		p.advance()
		right := p.expr(precedence + 1)
		n, problem := checkBinary(t, left, right)
		if problem != "" {
			p.fail(t.start, "%s", problem)
		}
		left = n
	}
}

// nest counts nested constructs, so that the stack stays bounded.
func (p *parser) nest(offset int) func() {
	if p.depth++; p.depth > maxNesting {
		p.fail(offset, "more than %d levels of nesting", maxNesting)
	}
	return func() { p.depth-- }
}

func (p *parser) operand() *node {
	t := p.tok
	defer p.nest(t.start)()
	switch t.kind {
	case tokNot, tokMinus:
		p.advance()
		n, problem := checkUnary(t, p.operand())
		if problem != "" {
			p.fail(t.start, "%s", problem)
		}
		return n
	case tokOpenParen:
		p.advance()
		n := p.expr(1)
		if !p.take(tokCloseParen) {
			p.unexpected(`")" or an operator`)
		}
		return n
	case tokName:
		p.advance()
		if p.tok.kind == tokOpenParen {
			return p.call(t)
		}
		return &node{op: opProperty, typ: typString, str: t.text}
	case tokSystem:
		p.advance()
		return p.system(t, true)
	case tokOpenBrace:
		return p.braced()
	}
	if n := p.literal(t); n != nil {
		p.advance()
		return n
	}
	p.unexpected("a value")
	return nil
}

func (p *parser) literal(t token) *node {
	switch t.kind {
	case tokString:
		return literal(typString, text(unescape(t.text[1:len(t.text)-1])))
	case tokInteger, tokReal:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil && !isRange(err) {
			p.fail(t.start, "bad number %q", shorten(t.text))
		}
		return literal(typNumber, number(f))
	case tokHex:
		i, err := strconv.ParseInt(t.text[2:], 16, 64)
		if err != nil {
			return literal(typUndefined, undefined)
		}
		return literal(typNumber, number(float64(i)))
	case tokTrue, tokFalse:
		return literal(typBool, boolean(t.kind == tokTrue))
	case tokNull:
		return literal(typNull, nullValue)
	case tokUndefined:
		return literal(typUndefined, undefined)
	}
	return nil
}

// braced reads {$name}.
func (p *parser) braced() *node {
	p.advance()
	t := p.tok
	if !p.take(tokSystem) {
		p.unexpected("a system property or body path, as in {$messageId}")
	}
	if !p.take(tokCloseBrace) {
		p.unexpected(`"}"`)
	}
	return p.system(t, false)
}

const bodyPrefix = "$body."

// system makes the node of $name or $body.path. With app, an application property
// of that literal name comes first; no property name holds a bracket.
func (p *parser) system(t token, app bool) *node {
	brackets := strings.ContainsAny(t.text, "[]")
	if len(t.text) >= len(bodyPrefix) && strings.EqualFold(t.text[:len(bodyPrefix)], bodyPrefix) {
		path, offset, problem := parsePath(t.text[len(bodyPrefix):])
		if problem != "" {
			p.fail(t.start+len(bodyPrefix)+offset, "%s", problem)
		}
		return &node{op: opBody, typ: typDynamic, str: t.text, path: path, app: app && !brackets}
	}
	if brackets {
		return literal(typUndefined, undefined)
	}
	return &node{op: opSystem, typ: typString, str: t.text[1:], app: app}
}

// call reads the arguments of a function; the opening parenthesis is next.
func (p *parser) call(name token) *node {
	key := asciiLower(name.text)
	fn := functions[key]
	if fn == nil {
		if key == "twin_change_includes" {
			p.fail(name.start, "twin_change_includes is not available in the routes of an edge hub")
		}
		p.fail(name.start, "unknown function %q", shorten(name.text))
	}
	p.advance()
	var args []*node
	var starts []int
	for p.tok.kind != tokCloseParen {
		starts = append(starts, p.tok.start)
		args = append(args, p.expr(1))
		if p.tok.kind == tokCloseParen {
			break
		}
		if !p.take(tokComma) {
			p.unexpected(`"," or ")"`)
		}
		if p.tok.kind == tokCloseParen {
			p.unexpected("a value")
		}
	}
	p.advance()
	n, argument, problem := fn.check(args)
	if problem != "" {
		at := name.start
		if argument >= 0 {
			at = starts[argument]
		}
		p.fail(at, "%s", problem)
	}
	return n
}

package route

import (
	"strconv"
	"strings"
)

// Route is a parsed and checked route. It is immutable and safe for concurrent use.
type Route struct {
	Source    string   // as written, without blanks and comments
	Condition string   // as written; "true" without WHERE
	Sink      Sink     // where messages go
	Warnings  []string // what is accepted but most likely not meant

	prefix    string // normalized source
	condition *node
}

// Parse reads and checks the text of a route. Text behind the endpoint is ignored
// with a warning. Errors are of type *Error.
func Parse(text string) (*Route, error) { return parse(text, (*parser).route) }

// route = [ SELECT "*" ] FROM source [ WHERE condition ] INTO sink
func (p *parser) route() *Route {
	if p.take(tokSelect) {
		if !p.take(tokStar) {
			p.unexpected(`"*" after SELECT`)
		}
		if p.tok.kind != tokFrom {
			p.unexpected("FROM")
		}
	}
	if !p.take(tokFrom) {
		p.unexpected("FROM or SELECT")
	}
	r := &Route{Condition: "true", condition: literal(typBool, boolean(true))}
	r.Source = p.source()
	r.prefix = normalize(r.Source)
	expected := "WHERE or INTO"
	if p.tok.kind == tokWhere {
		r.Condition, r.condition = p.where()
		expected = "an operator or INTO"
	}
	if !p.take(tokInto) {
		p.unexpected(expected)
	}
	r.Sink = p.sink()
	if warning := doubtful(r.prefix); warning != "" {
		r.Warnings = append(r.Warnings, warning)
	}
	p.lex.skip()
	if rest := p.lex.text[p.lex.pos:]; rest != "" {
		line, col := position(p.lex.text, p.lex.pos)
		r.Warnings = append(r.Warnings, "line "+itoa(line)+", column "+itoa(col)+
			": the text behind the endpoint is ignored: "+strconv.Quote(shorten(rest)))
	}
	return r
}

func itoa(i int) string { return strconv.Itoa(i) }

// source reads 1*( "/" item ); a slash at its end means the same as without.
func (p *parser) source() string {
	var b strings.Builder
	if p.tok.kind != tokSlash {
		p.sourceError(`a source that starts with "/", as in /messages/*`)
	}
	for p.take(tokSlash) {
		b.WriteByte('/')
		switch p.tok.kind {
		case tokStar, tokName:
			b.WriteString(p.tok.text)
			p.advance()
		case tokWhere, tokInto:
			return b.String()
		default:
			p.sourceError("a name or * in the source")
		}
	}
	return b.String()
}

// sourceError fails at the next token. A source like /*/x/*/y holds a comment by
// accident, so the error says so.
func (p *parser) sourceError(expected string) {
	if c := p.lex.comment; c[1] > 0 {
		expected += " (" + strconv.Quote(shorten(p.lex.text[c[0]:c[1]])) + " is a comment)"
	}
	p.unexpected(expected)
}

// where reads the condition and returns its text as well.
func (p *parser) where() (string, *node) {
	start := p.tok.end()
	p.advance()
	if p.tok.kind == tokInto || p.tok.kind == tokEnd {
		p.unexpected("a condition after WHERE")
	}
	n := p.expr(1)
	return strings.TrimSpace(p.lex.text[start:p.tok.start]), n
}

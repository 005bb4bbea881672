package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
)

// Bounds of a text. That of the length is IoT Hub's, in characters there and in bytes
// here.
const (
	maxText    = 8192
	maxNesting = 200
)

// parser reads a query by recursive descent with one token of lookahead. It reports
// the first error by a panic of type *route.Error, which parse recovers.
type parser struct {
	lex   lexer
	tok   token
	depth int
	paths []*path // all of the query, in the order of the text
}

func parse[T any](text string, rule func(p *parser) T) (result T, err error) {
	if len(text) > maxText {
		return result, route.ErrorAt(text, maxText, "the text is longer than %d bytes", maxText)
	}
	p := &parser{lex: lexer{text: text}}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*route.Error)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	p.advance()
	return rule(p), nil
}

func (p *parser) fail(offset int, format string, args ...any) {
	panic(route.ErrorAt(p.lex.text, offset, format, args...))
}

func (p *parser) advance() {
	t, problem := p.lex.next()
	if problem != "" {
		p.fail(t.start, "%s", problem)
	}
	p.tok = t
}

// take moves on if the next token is this symbol or key word.
func (p *parser) take(what string) bool {
	if !p.tok.is(what) {
		return false
	}
	p.advance()
	return true
}

func (p *parser) unexpected(expected string) {
	p.fail(p.tok.start, "expected %s, found %s", expected, p.tok.describe())
}

func (p *parser) need(what string) {
	if !p.take(what) {
		p.unexpected(what)
	}
}

// query reads the whole text.
func (p *parser) query() *Query {
	q := &Query{text: p.lex.text, top: -1}
	p.need("SELECT")
	if p.take("TOP") {
		q.top = p.count()
	}
	p.list(q)
	p.need("FROM")
	alias := p.source(q)
	if p.take("WHERE") {
		q.where = p.expr()
	}
	if p.take("GROUP") {
		p.need("BY")
		for {
			q.groups = append(q.groups, p.path())
			if !p.take(",") {
				break
			}
		}
	}
	switch {
	case p.tok.is("ORDER"):
		p.fail(p.tok.start, "the language has no ORDER BY: rows come in the order of device and module ids")
	case p.tok.kind != tokEnd:
		p.unexpected("the end of the text or an operator")
	}
	for _, path := range p.paths {
		path.resolve(q.source, alias)
	}
	p.checkList(q)
	return q
}

func (p *parser) count() int {
	n, err := strconv.Atoi(p.tok.value)
	if p.tok.kind != tokNumber || err != nil || n < 1 {
		p.unexpected("a whole number above 0 after TOP")
	}
	p.advance()
	return n
}

func (p *parser) list(q *Query) {
	if p.take("*") {
		q.whole = true
		return
	}
	for {
		q.items = append(q.items, p.item())
		if !p.take(",") {
			return
		}
	}
}

// item reads a column: a path or an aggregate, and its name.
func (p *parser) item() item {
	it := item{offset: p.tok.start}
	if p.tok.kind == tokWord && slices.Contains(aggregates, strings.ToLower(p.tok.value)) {
		it.aggregate = strings.ToLower(p.tok.value)
		p.advance()
		p.need("(")
		switch {
		case it.aggregate != "count":
			it.path = p.path()
		default:
			p.take("*")
		}
		p.need(")")
	} else {
		it.path = p.path()
	}
	if p.take("AS") {
		if p.tok.kind != tokWord && p.tok.kind != tokRaw {
			p.unexpected("a name after AS")
		}
		it.name = p.tok.value
		p.advance()
	}
	return it
}

// source reads what follows FROM and returns the alias, if there is one.
func (p *parser) source(q *Query) (alias string) {
	start := p.tok.start
	name := strings.ToLower(p.tok.value)
	if p.tok.kind != tokWord || name != "devices" {
		p.unexpected("devices or devices.modules")
	}
	p.advance()
	if p.tok.is(".") {
		t := p.segment()
		name += "." + strings.ToLower(t.value)
	}
	switch name {
	case "devices":
		q.source = Devices
	case "devices.modules":
		q.source = Modules
	case "devices.jobs":
		q.source = Jobs
	default:
		p.fail(start, "%q cannot be queried: expected devices or devices.modules", shorten(name))
	}
	as := p.take("AS")
	if p.tok.kind == tokWord && !isReserved(p.tok.value) {
		alias = p.tok.value
		p.advance()
	} else if as {
		p.unexpected("a name after AS")
	}
	return alias
}

// segment reads the name behind a dot, which is the next token.
func (p *parser) segment() token {
	t, problem := p.lex.segment()
	if problem != "" {
		p.fail(t.start, "%s", problem)
	}
	p.advance()
	return t
}

var reserved = []string{"select", "from", "where", "group", "by", "order", "and", "or", "not", "in", "nin", "as",
	"true", "false", "null", "undefined"}

func isReserved(word string) bool { return slices.Contains(reserved, strings.ToLower(word)) }

// path reads name{.name | .[[name]] | ['name']}.
func (p *parser) path() *path {
	if p.tok.kind != tokRaw && (p.tok.kind != tokWord || isReserved(p.tok.value)) {
		p.unexpected("a property, as deviceId or tags.place")
	}
	first := p.tok
	p.advance()
	return p.pathFrom(first)
}

func (p *parser) pathFrom(first token) *path {
	out := &path{offset: first.start, steps: []string{first.value}}
	for {
		switch {
		case p.tok.is("."):
			out.steps = append(out.steps, p.segment().value)
		case p.tok.is("["):
			p.advance()
			if p.tok.kind != tokString {
				p.unexpected("a name in quotes, as in tags['place']")
			}
			out.steps = append(out.steps, p.tok.value)
			p.advance()
			p.need("]")
		default:
			p.paths = append(p.paths, out)
			return out
		}
	}
}

// checkList names the columns, and finds those that make no sense.
func (p *parser) checkList(q *Query) {
	for _, it := range q.items {
		if it.aggregate != "" {
			q.grouped = true
		}
	}
	q.grouped = q.grouped || q.groups != nil
	if q.grouped && q.whole {
		p.fail(q.groups[0].offset, "SELECT * cannot be grouped: name the columns")
	}
	unnamed := 0
	names := map[string]bool{}
	for i := range q.items {
		it := &q.items[i]
		switch {
		case it.aggregate == "" && q.grouped && !slices.ContainsFunc(q.groups, it.path.same):
			p.fail(it.offset, "%s is not in GROUP BY, and other columns are grouped", it.path)
		case it.name != "":
		case it.aggregate != "":
			unnamed++
			it.name = fmt.Sprintf("$%d", unnamed)
		default:
			it.name = it.path.steps[len(it.path.steps)-1]
		}
		if names[it.name] {
			p.fail(it.offset, "a second column with the name %q: give it another one with AS", shorten(it.name))
		}
		names[it.name] = true
	}
}

package query

import (
	"strconv"
	"strings"
)

// expr is a compiled expression: what it gives for a document. It may be called from
// many goroutines.
type expr func(doc map[string]any) any

func (p *parser) expr() expr {
	left := p.and()
	for p.take("OR") {
		left = or(left, p.and())
	}
	return left
}

func (p *parser) and() expr {
	left := p.not()
	for p.take("AND") {
		left = and(left, p.not())
	}
	return left
}

// nest counts nested constructs, so that the stack stays bounded.
func (p *parser) nest() func() {
	if p.depth++; p.depth > maxNesting {
		p.fail(p.tok.start, "more than %d levels of nesting", maxNesting)
	}
	return func() { p.depth-- }
}

func (p *parser) not() expr {
	defer p.nest()()
	if p.take("NOT") {
		return not(p.not())
	}
	return p.comparison()
}

func (p *parser) comparison() expr {
	left := p.sum()
	if p.tok.kind == tokSymbol {
		if test, ok := comparisons[p.tok.value]; ok {
			p.advance()
			return compared(left, p.sum(), test)
		}
	}
	switch {
	case p.take("IN"):
		return in(left, p.array())
	case p.take("NIN"):
		return not(in(left, p.array()))
	case p.take("NOT"):
		p.need("IN")
		return not(in(left, p.array()))
	}
	return left
}

// array reads what follows IN: an array, or a property that is one.
func (p *parser) array() expr {
	switch {
	case p.tok.is("["):
		return p.operand()
	case p.tok.kind == tokWord, p.tok.kind == tokRaw:
		return p.path().of
	}
	p.unexpected(`"[" and constants, as in ['a', 'b']`)
	return nil
}

func (p *parser) sum() expr {
	left := p.product()
	for {
		switch {
		case p.take("+"):
			left = arithmetic(left, p.product(), add)
		case p.take("-"):
			left = arithmetic(left, p.product(), subtract)
		default:
			return left
		}
	}
}

func (p *parser) product() expr {
	left := p.operand()
	for {
		switch {
		case p.take("*"):
			left = arithmetic(left, p.operand(), multiply)
		case p.take("/"):
			left = arithmetic(left, p.operand(), divide)
		case p.take("%"):
			left = arithmetic(left, p.operand(), remainder)
		default:
			return left
		}
	}
}

func (p *parser) operand() expr {
	defer p.nest()()
	switch {
	case p.take("("):
		inner := p.expr()
		p.need(")")
		return inner
	case p.take("-"):
		return arithmetic(constant(0.0), p.operand(), subtract)
	case p.take("["):
		return constant(p.elements())
	}
	if v, ok := p.literal(); ok {
		return constant(v)
	}
	if p.tok.kind == tokWord && !isReserved(p.tok.value) {
		name := p.tok
		p.advance()
		if p.tok.is("(") {
			return p.call(name)
		}
		return p.pathFrom(name).of
	}
	if p.tok.kind == tokRaw {
		return p.path().of
	}
	p.unexpected("a value")
	return nil
}

// elements reads the rest of an array of constants.
func (p *parser) elements() []any {
	list := []any{}
	if p.take("]") {
		return list
	}
	for {
		negative := p.take("-")
		if negative && p.tok.kind != tokNumber {
			p.unexpected("a number")
		}
		v, ok := p.literal()
		switch {
		case !ok:
			p.unexpected("a constant: a string, number, true, false or null")
		case negative:
			v = -v.(float64)
		}
		list = append(list, v)
		if p.take("]") {
			return list
		}
		if !p.take(",") {
			p.unexpected(`"," or "]"`)
		}
	}
}

// literal reads a constant that is not an array.
func (p *parser) literal() (v any, ok bool) {
	switch t := p.tok; {
	case t.kind == tokString:
		v = t.value
	case t.kind == tokNumber:
		v = p.number(t)
	case t.is("true"):
		v = true
	case t.is("false"):
		v = false
	case t.is("null"):
		v = nil
	case t.is("undefined"):
		v = undefined
	default:
		return nil, false
	}
	p.advance()
	return v, true
}

func (p *parser) number(t token) float64 {
	if digits, ok := strings.CutPrefix(strings.ToLower(t.value), "0x"); ok {
		if n, err := strconv.ParseUint(digits, 16, 53); err == nil {
			return float64(n)
		}
	} else if f, err := strconv.ParseFloat(t.value, 64); err == nil && !strings.Contains(t.value, "_") {
		return f
	}
	p.fail(t.start, "%q is not a number", shorten(t.value))
	return 0
}

// call reads the arguments of a function.
func (p *parser) call(name token) expr {
	f, ok := functions[strings.ToLower(name.value)]
	if !ok {
		p.fail(name.start, "unknown function %q", shorten(name.value))
	}
	p.advance()
	var args []expr
	for !p.tok.is(")") {
		args = append(args, p.argument())
		if !p.take(",") {
			break
		}
	}
	p.need(")")
	if len(args) != f.params {
		p.fail(name.start, "%s takes %s, found %d", strings.ToUpper(name.value), [...]string{1: "1 argument", 2: "2 arguments"}[f.params], len(args))
	}
	return func(doc map[string]any) any {
		var values [2]any
		for i, a := range args {
			values[i] = a(doc)
		}
		return f.call(values[0], values[1])
	}
}

func (p *parser) argument() expr {
	defer p.nest()()
	return p.expr()
}

package route

import (
	"math"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// env is what one evaluation works on. It serves one message at a time.
type env struct {
	msg    *iothub.Message
	scan   scanner
	parsed bool
	stack  []value // arguments of calls under evaluation
}

// reset forgets the message and all that refers to it.
func (e *env) reset() {
	if e.parsed {
		e.scan.data = nil
		clear(e.scan.slots)
	}
	e.msg, e.parsed = nil, false
}

// evaluator computes a node. Evaluators are safe for concurrent use with an env each.
type evaluator func(e *env) value

// generator turns nodes into evaluators that share one set of body paths. The
// evaluators work once paths.seal was called.
type generator struct{ paths *paths }

func (g generator) node(n *node) evaluator {
	switch n.op {
	case opLiteral:
		v := n.val
		return func(*env) value { return v }
	case opProperty:
		name := n.str
		return func(e *env) value { return property(e.msg.Properties, name) }
	case opSystem:
		return system(n)
	case opBody:
		return g.body(n)
	case opCall:
		return g.call(n)
	case opNegate:
		x := g.node(n.args[0])
		return func(e *env) value { return negate(x(e)) }
	case opNot:
		return not(g.node(n.args[0]), n.args[0].typ)
	}
	return g.binary(n)
}

func (g generator) binary(n *node) evaluator {
	if equal := equalsLiteral(n); equal != nil {
		return equal
	}
	l, r := g.node(n.args[0]), g.node(n.args[1])
	switch n.op {
	case opAnd, opOr:
		return logic(n, l, r)
	case opCoalesce:
		return func(e *env) value {
			if v := l(e); v.kind != kindUndefined {
				return v
			}
			return r(e)
		}
	case opAdd:
		return arithmeticOf(l, r, func(a, b float64) float64 { return a + b })
	case opSub:
		return arithmeticOf(l, r, func(a, b float64) float64 { return a - b })
	case opMul:
		return arithmeticOf(l, r, func(a, b float64) float64 { return a * b })
	case opDiv:
		return arithmeticOf(l, r, func(a, b float64) float64 { return a / b })
	case opMod:
		return arithmeticOf(l, r, math.Mod)
	}
	comparison := n.op
	return func(e *env) value { return compare(comparison, l(e), r(e)) }
}

// equalsLiteral is the short way for the most common conditions: an application
// property against a string literal.
func equalsLiteral(n *node) evaluator {
	if n.op != opEq && n.op != opNe || n.args[0].op != opProperty || n.args[1].op != opLiteral || n.args[1].typ != typString {
		return nil
	}
	name, want, equal := n.args[0].str, n.args[1].val.str, n.op == opEq
	return func(e *env) value {
		p, ok := e.msg.Properties.LookupFold(name)
		if !ok || p.Null {
			return undefined
		}
		return boolean((p.Value == want) == equal)
	}
}

func property(list iothub.Properties, name string) value {
	p, ok := list.LookupFold(name)
	switch {
	case !ok:
		return undefined
	case p.Null:
		return value{kind: kindNullString}
	}
	return text(p.Value)
}

// system reads $name: an application property of that literal name comes first.
func system(n *node) evaluator {
	name := n.str
	if !n.app {
		return func(e *env) value { return property(e.msg.System, name) }
	}
	literal := "$" + name
	return func(e *env) value {
		if v := property(e.msg.Properties, literal); v.kind != kindUndefined {
			return v
		}
		return property(e.msg.System, name)
	}
}

// body reads $body.path: an application property of that literal name comes first.
func (g generator) body(n *node) evaluator {
	slot := new(int)
	g.paths.add(n.path, slot)
	if !n.app {
		return func(e *env) value { return e.body(g.paths, *slot) }
	}
	literal := n.str
	return func(e *env) value {
		if v := property(e.msg.Properties, literal); v.kind != kindUndefined {
			return v
		}
		return e.body(g.paths, *slot)
	}
}

// body returns the value at a path; the first call for a message reads the body.
func (e *env) body(p *paths, slot int) value {
	if !e.parsed {
		e.parsed = true
		if cap(e.scan.slots) < p.slots {
			e.scan.slots = make([]value, p.slots)
		}
		e.scan.slots = e.scan.slots[:p.slots]
		data, ok := queryable(e.msg)
		e.scan.data, e.scan.pos = data, 0
		if !ok || !e.scan.scan(&p.root) {
			fill(e.scan.slots, undefined)
		}
	}
	return e.scan.slots[slot]
}

func (g generator) call(n *node) evaluator {
	args := make([]evaluator, len(n.args))
	for i, a := range n.args {
		args[i] = g.node(a)
	}
	call := n.fn.call
	if n.fn.static != nil {
		call = n.fn.static(n.args)
	}
	return func(e *env) value {
		base := len(e.stack)
		for _, arg := range args {
			v := arg(e)
			e.stack = append(e.stack, v)
		}
		v := call(e.stack[base:])
		clear(e.stack[base:])
		e.stack = e.stack[:base]
		return v
	}
}

func arithmeticOf(l, r evaluator, f func(a, b float64) float64) evaluator {
	return func(e *env) value {
		a, b := l(e), r(e)
		if a.kind != kindNumber || b.kind != kindNumber {
			return undefined
		}
		return number(f(a.num, b.num))
	}
}

func negate(v value) value {
	if v.kind != kindNumber {
		return undefined
	}
	return number(-v.num)
}

// not inverts a bool. The null of the language gives true, that of a body undefined.
func not(x evaluator, t typ) evaluator {
	if t == typNull {
		return func(*env) value { return boolean(true) }
	}
	return func(e *env) value {
		v := x(e)
		if v.kind != kindBool {
			return undefined
		}
		return boolean(!v.flag)
	}
}

// logic makes AND and OR. A null operand of static type null makes AND null and
// leaves OR the other side; an expression of that type has no other value.
func logic(n *node, l, r evaluator) evaluator {
	left, right := n.args[0].typ, n.args[1].typ
	isAnd := n.op == opAnd
	switch {
	case left == typDynamic || right == typDynamic:
		if isAnd {
			return func(e *env) value { return andDynamic(l(e), r(e)) }
		}
		return func(e *env) value { return orDynamic(l(e), r(e)) }
	case n.typ == typNull:
		return func(*env) value { return nullValue }
	case left == typNull:
		return r
	case right == typNull:
		return l
	case isAnd:
		return and(l, r)
	}
	return or(l, r)
}

// and is three-valued. A false on one side decides, so the other need not be known.
func and(l, r evaluator) evaluator {
	return func(e *env) value {
		a := l(e)
		if a.isFalse() {
			return a
		}
		if b := r(e); b.isFalse() || a.kind == kindBool {
			return b
		}
		return undefined
	}
}

// or is three-valued. A true on one side decides.
func or(l, r evaluator) evaluator {
	return func(e *env) value {
		a := l(e)
		if a.isTrue() {
			return a
		}
		if b := r(e); b.isTrue() || a.kind == kindBool {
			return b
		}
		return undefined
	}
}

// andDynamic and orDynamic want two bools: a body value may be anything.
func andDynamic(a, b value) value {
	if a.kind != kindBool || b.kind != kindBool {
		return undefined
	}
	return boolean(a.flag && b.flag)
}

func orDynamic(a, b value) value {
	if a.kind != kindBool || b.kind != kindBool {
		return undefined
	}
	return boolean(a.flag || b.flag)
}

// compare orders two values. Different types occur only with body values: then
// they are unequal, and their rank decides the order.
func compare(o op, a, b value) value {
	if a.kind == kindUndefined || b.kind == kindUndefined || a.kind == kindNullString || b.kind == kindNullString {
		return undefined
	}
	c := int(a.kind) - int(b.kind)
	if c == 0 {
		c = order(o, a, b)
	}
	switch o {
	case opEq:
		return boolean(c == 0)
	case opNe:
		return boolean(c != 0)
	case opLt:
		return boolean(c < 0)
	case opLe:
		return boolean(c <= 0)
	case opGt:
		return boolean(c > 0)
	default:
		return boolean(c >= 0)
	}
}

// order compares two values of the same kind.
func order(o op, a, b value) int {
	switch a.kind {
	case kindBool:
		return rank(a.flag) - rank(b.flag)
	case kindNumber:
		switch {
		case a.num < b.num:
			return -1
		case a.num > b.num:
			return 1
		}
	case kindString:
		if a.str == b.str {
			return 0
		}
		if o == opEq || o == opNe {
			return 1
		}
		return compareText(a.str, b.str)
	}
	return 0
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}

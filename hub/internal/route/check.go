package route

// Static types (spec edgehub-routing 3.3). The functions return the typed node, or
// a text that tells what was expected.

// checkBinary types the operation kind between l and r.
func checkBinary(t token, l, r *node) (*node, string) {
	pair := []*node{l, r}
	dynamic := l.typ == typDynamic || r.typ == typDynamic
	mismatch := quote(t.text) + " cannot join " + l.typ.String() + " and " + r.typ.String()
	switch t.kind {
	case tokPlus, tokMinus, tokStar, tokSlash, tokPercent:
		if !typNumber.accepts(l.typ) || !typNumber.accepts(r.typ) {
			return nil, mismatch + ": expected numbers (as_number converts a string)"
		}
		n := &node{op: arithmetic[t.kind], typ: typNumber, args: pair}
		if dynamic {
			if t.kind == tokPercent {
				return nil, "\"%\" cannot take a body value: wrap it in as_number()"
			}
			n.typ = typDynamic
		}
		return n, ""
	case tokConcat:
		if !typString.accepts(l.typ) || !typString.accepts(r.typ) {
			return nil, mismatch + ": expected strings"
		}
		if l.op == opCall && l.fn.name == "concat" { // a chain is one call
			pair = append(l.args[:len(l.args):len(l.args)], r)
		}
		return &node{op: opCall, typ: typString, fn: functions["concat"], args: pair}, ""
	case tokAnd, tokOr:
		return checkLogic(t, l, r, mismatch)
	case tokCoalesce:
		if !l.typ.accepts(r.typ) {
			return nil, mismatch + ": expected the same type on both sides"
		}
		n := &node{op: opCoalesce, typ: l.typ, args: pair}
		if dynamic {
			n.typ = typDynamic
		}
		return n, ""
	default:
		if !l.typ.accepts(r.typ) {
			return nil, mismatch + ": expected the same type on both sides"
		}
		return &node{op: comparison[t.kind], typ: typBool, args: pair}, ""
	}
}

var arithmetic = map[tokenKind]op{
	tokPlus: opAdd, tokMinus: opSub, tokStar: opMul, tokSlash: opDiv, tokPercent: opMod,
}

var comparison = map[tokenKind]op{
	tokEq: opEq, tokNe: opNe, tokLt: opLt, tokLe: opLe, tokGt: opGt, tokGe: opGe,
}

func checkLogic(t token, l, r *node, mismatch string) (*node, string) {
	dynamic := l.typ == typDynamic || r.typ == typDynamic
	null := l.typ == typNull || r.typ == typNull
	switch {
	case !logical(l.typ) || !logical(r.typ):
		return nil, mismatch + ": expected conditions"
	case !dynamic && null && (l.typ == typUndefined || r.typ == typUndefined):
		return nil, mismatch + ": expected conditions"
	}
	n := &node{op: opAnd, typ: typBool, args: []*node{l, r}}
	if t.kind == tokOr {
		n.op = opOr
		null = l.typ == typNull && r.typ == typNull
	}
	if null && !dynamic {
		n.typ = typNull
	}
	return n, ""
}

func logical(t typ) bool { return t != typNumber && t != typString }

// checkUnary types NOT and the unary minus.
func checkUnary(t token, x *node) (*node, string) {
	if t.kind == tokNot {
		if !logical(x.typ) {
			return nil, "NOT cannot take an operand of type " + x.typ.String() +
				": expected a condition (NOT binds tighter than comparison: write NOT (a = b))"
		}
		return &node{op: opNot, typ: typBool, args: []*node{x}}, ""
	}
	switch x.typ {
	case typNumber:
		return &node{op: opNegate, typ: typNumber, args: []*node{x}}, ""
	case typDynamic:
		return nil, "\"-\" cannot take a body value: wrap it in as_number()"
	}
	return nil, "\"-\" cannot take an operand of type " + x.typ.String() + ": expected a number"
}

func quote(s string) string { return `"` + s + `"` }

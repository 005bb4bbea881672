package query

import (
	"encoding/json"
	"math"
	"strings"
)

// Values are those of encoding/json: nil, bool, float64 or json.Number, string, []any,
// map[string]any; and undefined.
type undefinedType struct{}

var undefined = undefinedType{}

func constant(v any) expr { return func(map[string]any) any { return v } }

// numberOf returns v as a number, if it is one.
func numberOf(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	}
	return 0, false
}

// The logic has three values; what is neither true nor false is undefined.

func or(a, b expr) expr {
	return func(doc map[string]any) any {
		x, known := a(doc).(bool)
		if known && x {
			return true
		}
		y, both := b(doc).(bool)
		switch {
		case both && y:
			return true
		case known && both:
			return false
		}
		return undefined
	}
}

func and(a, b expr) expr { return not(or(not(a), not(b))) }

func not(a expr) expr {
	return func(doc map[string]any) any {
		if x, ok := a(doc).(bool); ok {
			return !x
		}
		return undefined
	}
}

// comparison is what an operator makes of an order of -1, 0 or 1.
type comparison struct {
	holds   func(order int) bool
	ordered bool // of no use for values that can only be equal or not
}

var comparisons = map[string]comparison{
	"=":  {func(o int) bool { return o == 0 }, false},
	"!=": {func(o int) bool { return o != 0 }, false},
	"<>": {func(o int) bool { return o != 0 }, false},
	"<":  {func(o int) bool { return o < 0 }, true},
	"<=": {func(o int) bool { return o <= 0 }, true},
	">":  {func(o int) bool { return o > 0 }, true},
	">=": {func(o int) bool { return o >= 0 }, true},
}

func compared(a, b expr, c comparison) expr {
	return func(doc map[string]any) any {
		order, hasOrder, ok := compare(a(doc), b(doc))
		if !ok || c.ordered && !hasOrder {
			return undefined
		}
		return c.holds(order)
	}
}

// compare puts two values of the same primitive type in order. ok is false for others;
// hasOrder is false for those that can only be equal or not.
func compare(a, b any) (order int, hasOrder, ok bool) {
	if x, isNumber := numberOf(a); isNumber {
		y, same := numberOf(b)
		switch {
		case !same:
			return 0, false, false
		case x < y:
			return -1, true, true
		case x > y:
			return 1, true, true
		}
		return 0, true, true
	}
	switch x := a.(type) {
	case string:
		y, same := b.(string)
		return strings.Compare(x, y), true, same
	case bool:
		y, same := b.(bool)
		if x == y {
			return 0, false, same
		}
		return 1, false, same
	case nil:
		return 0, false, b == nil
	}
	return 0, false, false
}

func equal(a, b any) bool {
	order, _, ok := compare(a, b)
	return ok && order == 0
}

// contains is what ARRAY_CONTAINS and IN have in common.
func contains(list, v any) any {
	items, ok := list.([]any)
	if !ok || v == undefined {
		return undefined
	}
	for _, item := range items {
		if equal(item, v) {
			return true
		}
	}
	return false
}

func in(v, list expr) expr {
	return func(doc map[string]any) any { return contains(list(doc), v(doc)) }
}

func add(x, y float64) float64       { return x + y }
func subtract(x, y float64) float64  { return x - y }
func multiply(x, y float64) float64  { return x * y }
func divide(x, y float64) float64    { return x / y }
func remainder(x, y float64) float64 { return math.Mod(x, y) }

func arithmetic(a, b expr, f func(x, y float64) float64) expr {
	return func(doc map[string]any) any {
		x, ok := numberOf(a(doc))
		y, both := numberOf(b(doc))
		if !ok || !both {
			return undefined
		}
		return finite(f(x, y))
	}
}

// finite makes undefined of what JSON has no number for, as 1/0.
func finite(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return undefined
	}
	return f
}

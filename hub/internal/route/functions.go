package route

import (
	"math"
	"strconv"
	"strings"
)

// maxText bounds the strings that concat builds, in bytes: a longer one is
// undefined. No message can hold half as much.
const maxText = 1 << 20

// function is a built-in function. All are pure and total.
type function struct {
	name   string
	params []typ // the last one repeats if variadic; typUndefined: any type
	least  int   // arguments at least
	most   int   // arguments at most
	result typ
	call   func(args []value) value
	static func(args []*node) func(args []value) value // gives call, if that depends on static types
}

const anyType = typUndefined

// functions lists the built-in functions by their names in lower case.
var functions = map[string]*function{
	"abs":     numeric("abs", math.Abs),
	"exp":     numeric("exp", math.Exp),
	"square":  numeric("square", func(x float64) float64 { return x * x }),
	"ceiling": numeric("ceiling", math.Ceil),
	"floor":   numeric("floor", math.Floor),
	"sqrt":    numeric("sqrt", math.Sqrt),
	"sign":    numeric("sign", sign),
	"power":   fixed("power", typNumber, power, typNumber, typNumber),

	"as_number":  {name: "as_number", least: 1, most: 1, result: typNumber, params: []typ{typString}, call: asNumber},
	"is_bool":    {name: "is_bool", least: 1, most: 1, result: typBool, params: []typ{anyType}, static: isBool},
	"is_number":  fixed("is_number", typBool, isNumber, anyType),
	"is_string":  fixed("is_string", typBool, isString, anyType),
	"is_null":    fixed("is_null", typBool, isNull, anyType),
	"is_defined": fixed("is_defined", typBool, isDefined, anyType),

	"concat":      {name: "concat", least: 2, most: math.MaxInt, result: typString, params: []typ{typString}, call: concat},
	"length":      textual("length", typNumber, func(s string) value { return number(float64(textLength(s))) }),
	"lower":       textual("lower", typString, func(s string) value { return text(lower(s)) }),
	"upper":       textual("upper", typString, func(s string) value { return text(upper(s)) }),
	"substring":   {name: "substring", least: 2, most: 3, result: typString, params: []typ{typString, typNumber, typNumber}, call: substring},
	"index_of":    pairwise("index_of", typNumber, func(s, t string) value { return number(float64(indexText(s, t))) }),
	"starts_with": pairwise("starts_with", typBool, func(s, t string) value { return boolean(hasPrefix(s, t)) }),
	"ends_with":   pairwise("ends_with", typBool, func(s, t string) value { return boolean(hasSuffix(s, t)) }),
	"contains":    pairwise("contains", typBool, func(s, t string) value { return boolean(indexText(s, t) >= 0) }),
}

func fixed(name string, result typ, call func([]value) value, params ...typ) *function {
	return &function{name: name, params: params, least: len(params), most: len(params), result: result, call: call}
}

func numeric(name string, f func(float64) float64) *function {
	return fixed(name, typNumber, func(a []value) value {
		if a[0].kind != kindNumber {
			return undefined
		}
		return number(f(a[0].num))
	}, typNumber)
}

func textual(name string, result typ, f func(string) value) *function {
	return fixed(name, result, func(a []value) value {
		if a[0].kind != kindString {
			return undefined
		}
		return f(a[0].str)
	}, typString)
}

func pairwise(name string, result typ, f func(s, t string) value) *function {
	return fixed(name, result, func(a []value) value {
		if a[0].kind != kindString || a[1].kind != kindString {
			return undefined
		}
		return f(a[0].str, a[1].str)
	}, typString, typString)
}

// check types a call of f. A text tells what was expected; it concerns the
// argument with this index, or the call as a whole if the index is -1.
func (f *function) check(args []*node) (n *node, argument int, problem string) {
	if len(args) < f.least || len(args) > f.most {
		return nil, -1, f.name + " takes " + f.arity() + ", found " + strconv.Itoa(len(args))
	}
	for i, a := range args {
		want := f.params[min(i, len(f.params)-1)]
		if want == anyType || want.accepts(a.typ) || f.name == "as_number" && a.typ == typNumber {
			continue
		}
		return nil, i, f.name + ": argument " + strconv.Itoa(i+1) + " is of type " + a.typ.String() + ", expected " + want.String()
	}
	return &node{op: opCall, typ: f.result, fn: f, args: args}, -1, ""
}

func (f *function) arity() string {
	switch {
	case f.most == math.MaxInt:
		return "at least " + strconv.Itoa(f.least) + " arguments"
	case f.least != f.most:
		return strconv.Itoa(f.least) + " or " + strconv.Itoa(f.most) + " arguments"
	case f.least == 1:
		return "1 argument"
	}
	return strconv.Itoa(f.least) + " arguments"
}

func sign(x float64) float64 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return 0
}

func power(a []value) value {
	if a[0].kind != kindNumber || a[1].kind != kindNumber {
		return undefined
	}
	return number(math.Pow(a[0].num, a[1].num))
}

func asNumber(a []value) value {
	switch a[0].kind {
	case kindNumber:
		return a[0]
	case kindString:
		if f, ok := parseNumber(a[0].str); ok {
			return number(f)
		}
	}
	return undefined
}

// isBool is false for every argument of another type; an argument that may be a
// bool but is undefined gives undefined.
func isBool(args []*node) func([]value) value {
	if t := args[0].typ; t != typBool && t != typDynamic {
		return func([]value) value { return boolean(false) }
	}
	return func(a []value) value {
		if a[0].kind == kindUndefined {
			return undefined
		}
		return boolean(a[0].kind == kindBool)
	}
}

func isNumber(a []value) value {
	return boolean(a[0].kind == kindNumber && !math.IsInf(a[0].num, 0))
}

func isString(a []value) value { return boolean(a[0].kind == kindString) }

func isDefined(a []value) value { return boolean(a[0].kind != kindUndefined) }

func isNull(a []value) value {
	return boolean(a[0].kind == kindNull && !a[0].flag || a[0].kind == kindNullString)
}

func concat(a []value) value {
	size := 0
	for i := range a {
		if a[i].kind != kindString && a[i].kind != kindNullString {
			return undefined
		}
		size += len(a[i].str)
	}
	switch {
	case size > maxText:
		return undefined
	case len(a) == 2:
		return text(join(a[0].str, a[1].str))
	}
	var b strings.Builder
	b.Grow(size)
	last := a[0].str
	for i := range a[1:] {
		if next := a[i+1].str; splitsCharacter(last, next) {
			last = join(last, next)
		} else {
			b.WriteString(last)
			last = next
		}
	}
	b.WriteString(last)
	return text(b.String())
}

func substring(a []value) value {
	if a[0].kind != kindString || a[1].kind != kindNumber {
		return undefined
	}
	size := textLength(a[0].str)
	start := a[1].num
	if len(a) == 2 {
		if start < 0 || start > float64(size) {
			return undefined
		}
		return text(slice(a[0].str, int(start), size))
	}
	if a[2].kind != kindNumber {
		return undefined
	}
	length := a[2].num
	if start < 0 || start >= float64(size) || length < 0 || length > float64(size)-start {
		return undefined
	}
	return text(slice(a[0].str, int(start), int(start)+int(length)))
}

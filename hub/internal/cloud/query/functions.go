package query

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// function is a built-in function of one or two parameters. All are total.
type function struct {
	params int
	call   func(a, b any) any
}

// functions are the built-in functions by their names in lower case.
var functions = map[string]function{
	"is_defined": is(func(v any) bool { return v != undefined }),
	"is_null":    is(func(v any) bool { return v == nil }),
	"is_bool":    is(isOf[bool]),
	"is_number":  is(func(v any) bool { _, ok := numberOf(v); return ok }),
	"is_string":  is(isOf[string]),
	"is_object":  is(isOf[map[string]any]),
	"is_array":   is(isOf[[]any]),
	"is_primitive": is(func(v any) bool {
		return v != undefined && !isOf[map[string]any](v) && !isOf[[]any](v)
	}),

	"startswith":  texts(strings.HasPrefix),
	"starts_with": texts(strings.HasPrefix),
	"endswith":    texts(strings.HasSuffix),
	"ends_with":   texts(strings.HasSuffix),
	"contains":    texts(strings.Contains),

	"array_contains": {2, contains},

	"lower":     text(func(s string) any { return strings.ToLower(s) }),
	"upper":     text(func(s string) any { return strings.ToUpper(s) }),
	"length":    text(func(s string) any { return float64(utf8.RuneCountInString(s)) }),
	"as_number": {1, asNumber},
}

func is(f func(v any) bool) function {
	return function{1, func(v, _ any) any { return f(v) }}
}

// isOf tells whether v is a JSON value that Go has as a T. A json.Number is of the
// kind string, but not of the type.
func isOf[T any](v any) bool {
	_, ok := v.(T)
	return ok
}

func texts(f func(s, t string) bool) function {
	return function{2, func(a, b any) any {
		s, ok := a.(string)
		t, both := b.(string)
		if !ok || !both {
			return undefined
		}
		return f(s, t)
	}}
}

func text(f func(s string) any) function {
	return function{1, func(a, _ any) any {
		if s, ok := a.(string); ok {
			return f(s)
		}
		return undefined
	}}
}

func asNumber(a, _ any) any {
	switch v := a.(type) {
	case float64, json.Number:
		return v
	case string:
		if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
			return finite(f)
		}
	}
	return undefined
}

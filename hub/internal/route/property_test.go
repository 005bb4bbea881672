package route_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"pgregory.net/rapid"
)

// words that random texts are made of; together they reach every rule.
var pieces = []string{
	"a", "b", "none", "$messageId", "$body.x", "$body.list[0]", "{$body.x}", "{ $cid }", "'s'", `"t"`, `'\ud83d'`, "''",
	"1", "-2.5", "0x10", "1e400", "true", "false", "null", "undefined", "(", ")", ",", "+", "-", "*", "/", "%", "||", "??",
	"=", "!=", "<>", "<", "<=", ">", ">=", "and", "OR", "Not", "abs", "concat", "substring", "index_of", "as_number", "is_null",
	"is_bool", "power", "upper", "FROM", "/messages", "/*", "WHERE", "INTO", "$upstream", "SELECT", "[", "@", "'open", "/* c */", "\n",
}

func randomText() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		words := rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 25).Draw(t, "words")
		return strings.Join(words, rapid.SampledFrom([]string{" ", ""}).Draw(t, "between"))
	})
}

// condition draws a condition that compiles, of the given type.
func condition(t *rapid.T, typ string, depth int) string {
	sub := func(typ string) string { return condition(t, typ, depth-1) }
	pick := func(choices ...string) string { return rapid.SampledFrom(choices).Draw(t, "choice") }
	if depth <= 0 {
		switch typ {
		case "bool":
			return pick("true", "false", "(undefined = undefined)", "(null = null)", "(none = 'x')")
		case "number":
			return pick("1", "-2.5", "(3 % 0)", "(1 / 0)", "as_number(b)", "length(a)")
		case "string":
			return pick("a", "b", "none", "nothing", "$messageId", "'x'", "''", `'\ud83d'`, "'😀y'")
		default:
			return pick("$body.n", "$body.s", "$body.t", "$body.o", "$body.missing", "$body.n.x", "$body.list[0]", "$body.null")
		}
	}
	switch typ {
	case "bool":
		switch rapid.IntRange(0, 7).Draw(t, "rule") {
		case 0:
			return "(" + sub("bool") + pick(" AND ", " OR ", " ?? ") + sub("bool") + ")"
		case 1:
			return "NOT (" + sub("bool") + ")"
		case 2:
			kind := pick("bool", "number", "string", "dynamic")
			return "(" + sub(kind) + pick(" = ", " != ", " < ", " >= ") + sub(kind) + ")"
		case 3:
			return "(" + sub("dynamic") + pick(" = ", " <> ", " > ", " <= ") + sub(pick("number", "string", "bool")) + ")"
		case 4:
			return pick("is_null(", "is_defined(", "is_bool(", "is_number(", "is_string(") +
				sub(pick("bool", "number", "string", "dynamic")) + ")"
		case 5:
			return pick("starts_with(", "ends_with(", "contains(") + sub("string") + ", " + sub(pick("string", "dynamic")) + ")"
		case 6:
			return "(" + sub(pick("bool", "dynamic")) + pick(" AND ", " OR ") + sub(pick("bool", "dynamic")) + ")"
		default:
			return "NOT (" + sub("dynamic") + ")"
		}
	case "number":
		switch rapid.IntRange(0, 3).Draw(t, "rule") {
		case 0:
			return "(" + sub("number") + pick(" + ", " - ", " * ", " / ", " % ") + sub("number") + ")"
		case 1:
			return pick("abs(", "exp(", "square(", "ceiling(", "floor(", "sign(", "sqrt(") + sub(pick("number", "dynamic")) + ")"
		case 2:
			return pick("as_number(", "length(") + sub(pick("string", "dynamic")) + ")"
		default:
			return "(" + sub("number") + " ?? power(" + sub("number") + ", index_of(" + sub("string") + ", " + sub("string") + ")))"
		}
	case "string":
		switch rapid.IntRange(0, 2).Draw(t, "rule") {
		case 0:
			return "(" + sub("string") + pick(" || ", " ?? ") + sub("string") + ")"
		case 1:
			return "substring(" + sub("string") + ", " + sub("number") + ", " + sub("number") + ")"
		default:
			return pick("upper(", "lower(") + sub(pick("string", "dynamic")) + ")"
		}
	default:
		return "(" + sub("dynamic") + pick(" + ", " - ", " * ", " / ", " ?? ") + sub("dynamic") + ")"
	}
}

func randomMessage(t *rapid.T) *iothub.Message {
	m := messageOf(t, `{"p":{"nothing":null},"json":true}`)
	m.Properties.Set("a", rapid.String().Draw(t, "a"))
	m.Properties.Set("b", rapid.StringMatching(`-?[0-9]{1,5}(\.[0-9]+)?|[a-z😀]*`).Draw(t, "b"))
	m.System.Set(iothub.MessageID, string(rapid.SliceOf(rapid.Byte()).Draw(t, "id")))
	m.Body = []byte(rapid.SampledFrom([]string{
		`{"n":4,"s":"te😀xt","t":true,"o":{},"list":[1],"null":null}`, `{"n":-1e400,"s":"","list":["\ud83d"]}`, `{`, ``, `[]`,
	}).Draw(t, "body"))
	return m
}

func TestAnyTextParsesOrFailsWithAPosition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := randomText().Draw(t, "text")
		m := randomMessage(t)
		checkCompile(t, text, m)
		checkCompile(t, "FROM /* WHERE "+text+" INTO $upstream", m)
	})
}

type failer interface{ Fatalf(string, ...any) }

// checkCompile compiles a text as a condition and as a route; an error has to lie
// within it.
func checkCompile(t failer, text string, m *iothub.Message) {
	c, err := route.CompileCondition(text)
	if err == nil {
		c.Evaluate(m)
	} else {
		checkPosition(t, text, err)
	}
	r, err := route.Parse(text)
	if err != nil {
		checkPosition(t, text, err)
		return
	}
	table := route.NewTable(&route.Config{Routes: []route.NamedRoute{{Name: "r", Route: r}}}, "e")
	if hits := table.Match(m, nil); len(hits) > 1 {
		t.Fatalf("%q: %d hits for one route", text, len(hits))
	}
}

func checkPosition(t failer, text string, err error) {
	var e *route.Error
	if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(text) || e.Msg == "" {
		t.Fatalf("%q: error %#v", text, err)
	}
	line := strings.Count(text[:e.Offset], "\n") + 1
	col := len([]rune(text[strings.LastIndex(text[:e.Offset], "\n")+1:e.Offset])) + 1
	if e.Line != line || e.Col != col {
		t.Fatalf("%q: line %d column %d, want %d %d", text, e.Line, e.Col, line, col)
	}
}

func TestEvaluationIsTotalAndConsistent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := condition(t, "bool", rapid.IntRange(1, 5).Draw(t, "depth"))
		m := randomMessage(t)
		result := func(text string) route.Result {
			c, err := route.CompileCondition(text)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			return c.Evaluate(m)
		}
		got := result(text)
		if again := result("((" + text + "))"); again != got {
			t.Fatalf("%s: %v, in parentheses %v", text, got, again)
		}
		want := map[route.Result]route.Result{route.True: route.False, route.False: route.True, route.Undefined: route.Undefined}[got]
		if inverse := result("NOT (" + text + ")"); inverse != want {
			t.Fatalf("%s: %v, inverted %v", text, got, inverse)
		}
		if d := result("is_defined(" + text + ")"); (d == route.True) != (got != route.Undefined) {
			t.Fatalf("%s: %v, is_defined %v", text, got, d)
		}
		r, err := route.Parse("FROM /messages WHERE " + text + " INTO $upstream")
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		table := route.NewTable(&route.Config{Routes: []route.NamedRoute{{Name: "r", Route: r}}}, "e")
		for range 2 {
			if routed := len(table.Match(m, nil)) == 1; routed != (got == route.True) {
				t.Fatalf("%s: %v, routed %v", text, got, routed)
			}
		}
	})
}

// The scanner that takes single values out of a body agrees with a decoder that
// reads all of it.
func TestBodyValuesAgreeWithADecoder(t *testing.T) {
	names := []string{"a", "b", "ä\"", "a\\b"}
	var document func(t *rapid.T, depth int) any
	document = func(t *rapid.T, depth int) any {
		n := rapid.IntRange(0, 7).Draw(t, "kind")
		switch {
		case n == 0 && depth > 0 || depth == 4:
			out := map[string]any{}
			for _, name := range rapid.SliceOfN(rapid.SampledFrom(names), 0, 4).Draw(t, "names") {
				out[name] = document(t, depth-1)
			}
			return out
		case n == 1 && depth > 0:
			out := []any{}
			for range rapid.IntRange(0, 3).Draw(t, "items") {
				out = append(out, document(t, depth-1))
			}
			return out
		case n == 2:
			return nil
		case n == 3:
			return rapid.Bool().Draw(t, "bool")
		case n < 6:
			return rapid.Float64().Draw(t, "number")
		default:
			return rapid.StringMatching(`[ -~äö😀\n\t]{0,8}`).Draw(t, "text")
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		body, err := json.Marshal(document(t, 4))
		if err != nil {
			t.Fatal(err)
		}
		m := messageOf(t, `{"json":true}`)
		m.Body = body
		var decoded any
		if err := json.Unmarshal(body, &decoded); err != nil {
			t.Fatal(err)
		}
		path, at := "$body", decoded
		found, scalar := true, false
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "missing"}).Draw(t, "name")
			path += "." + name
			at, found, scalar = stepInto(at, name, found, scalar)
			if rapid.Bool().Draw(t, "indexed") {
				i := rapid.IntRange(0, 2).Draw(t, "index")
				path += "[" + strconv.Itoa(i) + "]"
				at, found, scalar = stepInto(at, i, found, scalar)
			}
		}
		want := "null"
		switch v := at.(type) {
		case nil:
			if scalar {
				want = "undefined"
			}
		case bool:
			want = fmt.Sprint(v)
		case float64:
			want = strconv.FormatFloat(v, 'g', -1, 64)
		case string:
			want = strconv.Quote(v)
		default:
			want = "undefined"
		}
		check := path + " = " + want
		if want == "undefined" {
			check = "NOT is_defined(" + path + ")"
		}
		if s, ok := at.(string); ok {
			m.Properties.Set("want", s)
			check = path + " = want"
		}
		if got := evaluate(m, check); got != "true" {
			t.Fatalf("%s\n%s: %s", body, check, got)
		}
	})
}

// stepInto follows one step of a path. scalar tells that the path went on below a
// value that has no parts.
func stepInto(at any, step any, found, scalar bool) (any, bool, bool) {
	if !found || scalar {
		return nil, found, scalar
	}
	switch v := at.(type) {
	case map[string]any:
		name, _ := step.(string)
		next, ok := v[name]
		return next, ok, false
	case []any:
		i, isIndex := step.(int)
		if !isIndex || i >= len(v) {
			return nil, false, false
		}
		return v[i], true, false
	}
	return nil, true, true
}

// Strings behave as sequences of UTF-16 code units.
func TestStringsAreCodeUnits(t *testing.T) {
	units := rapid.SliceOfN(rapid.SampledFrom([]uint16{'a', 'b', 0xe4, 0x6f22, 0xd83d, 0xde00, 0xd83e, 0xde01, 0xe000, 0xffff, 0xfffd, 0xd7ff}), 0, 8)
	rapid.Check(t, func(t *rapid.T) {
		a, b := units.Draw(t, "a"), units.Draw(t, "b")
		sa, sb := route.UnitString(a), route.UnitString(b)
		if n := route.Length(sa); n != len(a) {
			t.Fatalf("length of %x: %d", a, n)
		}
		if got, want := sign(route.Compare(sa, sb)), slices.Compare(a, b); got != want {
			t.Fatalf("%x against %x: %d, want %d", a, b, got, want)
		}
		if got := route.Join(sa, sb); got != route.UnitString(append(slices.Clone(a), b...)) {
			t.Fatalf("%x and %x: %q", a, b, got)
		}
		start := rapid.IntRange(0, len(a)).Draw(t, "start")
		end := rapid.IntRange(start, len(a)).Draw(t, "end")
		if got := route.Slice(sa, start, end); got != route.UnitString(a[start:end]) {
			t.Fatalf("%x[%d:%d]: %q", a, start, end, got)
		}
		want := -1
		for i := 0; want < 0 && i+len(b) <= len(a); i++ {
			if slices.Equal(a[i:i+len(b)], b) {
				want = i
			}
		}
		if got := route.Index(sa, sb); got != want {
			t.Fatalf("%x in %x: %d, want %d", b, a, got, want)
		}
	})
}

func sign(i int) int {
	switch {
	case i < 0:
		return -1
	case i > 0:
		return 1
	}
	return 0
}

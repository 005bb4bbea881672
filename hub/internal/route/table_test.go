package route_test

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func named(t testing.TB, name, text string, priority uint32, ttl time.Duration) route.NamedRoute {
	t.Helper()
	r, err := route.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return route.NamedRoute{Name: name, Route: r, Priority: priority, TTL: ttl}
}

func moduleMessage(module, output string) *iothub.Message {
	m := &iothub.Message{}
	m.System.Set(iothub.ConnectionDeviceID, "edge1")
	m.System.Set(iothub.ConnectionModuleID, module)
	if output != "" {
		m.System.Set(iothub.OutputName, output)
	}
	return m
}

func TestTableGivesOneHitPerEndpointOfTheSmallestPriority(t *testing.T) {
	toB := ` INTO BrokeredEndpoint("/modules/b/inputs/in")`
	table := route.NewTable(&route.Config{Routes: []route.NamedRoute{
		named(t, "1", "FROM /messages/* INTO $upstream", route.DefaultPriority, 0),
		named(t, "2", "FROM /messages/modules/a/* WHERE level = 'high' INTO $upstream", 1, time.Minute),
		named(t, "3", "FROM /messages/modules/a/outputs/o INTO $upstream", 1, time.Hour),
		named(t, "4", "FROM /* WHERE level = 'low'"+toB, 0, 0),
		named(t, "5", "FROM /messages/modules/a"+toB, 5, time.Second),
	}}, "edge1")
	up := func(p uint32, ttl time.Duration) route.Hit {
		return route.Hit{Endpoint: "iothub", Sink: route.Sink{Upstream: true}, Priority: p, TTL: ttl}
	}
	toModule := func(p uint32, ttl time.Duration) route.Hit {
		return route.Hit{Endpoint: "edge1/b/in", Sink: route.Sink{Module: "b", Input: "in"}, Priority: p, TTL: ttl}
	}
	for _, c := range []struct {
		name, module, output, level string
		want                        []route.Hit
	}{
		{"default only", "x", "", "", []route.Hit{up(route.DefaultPriority, 0)}},
		{"condition raises the priority", "a", "other", "high", []route.Hit{up(1, time.Minute), toModule(5, time.Second)}},
		{"first of equal priorities", "a", "o", "high", []route.Hit{up(1, time.Minute), toModule(5, time.Second)}},
		{"two endpoints", "a", "o", "low", []route.Hit{up(1, time.Hour), toModule(0, 0)}},
	} {
		m := moduleMessage(c.module, c.output)
		if c.level != "" {
			m.Properties.Set("level", c.level)
		}
		got := table.Match(m, nil)
		if !sameHits(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		before := []route.Hit{{Endpoint: "earlier"}}
		if got = table.Match(m, before); got[0].Endpoint != "earlier" || !sameHits(got[1:], c.want) {
			t.Errorf("%s: hits are not appended: %+v", c.name, got)
		}
	}
	want := []route.Endpoint{
		{ID: "iothub", Sink: route.Sink{Upstream: true}, Priorities: []uint32{1, route.DefaultPriority}},
		{ID: "edge1/b/in", Sink: route.Sink{Module: "b", Input: "in"}, Priorities: []uint32{0, 5}},
	}
	if got := table.Endpoints(); !reflect.DeepEqual(got, want) {
		t.Errorf("endpoints %+v, want %+v", got, want)
	}
}

func sameHits(a, b []route.Hit) bool {
	count := map[route.Hit]int{}
	for _, h := range a {
		count[h]++
	}
	for _, h := range b {
		count[h]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestTableWithoutRoutesMatchesNothing(t *testing.T) {
	for _, table := range []*route.Table{route.NewTable(nil, "e"), route.NewTable(&route.Config{}, "e")} {
		if hits := table.Match(moduleMessage("a", "o"), nil); hits != nil {
			t.Errorf("hits %v", hits)
		}
		if e := table.Endpoints(); len(e) != 0 {
			t.Errorf("endpoints %v", e)
		}
	}
}

// Routes of one table share what was read of the body; the next message must not
// see it.
func TestTableForgetsTheBodyOfTheLastMessage(t *testing.T) {
	table := route.NewTable(&route.Config{Routes: []route.NamedRoute{
		named(t, "1", `FROM /* WHERE $body.a = 1 INTO $upstream`, 0, 0),
		named(t, "2", `FROM /* WHERE $body.b.c = 'x' INTO BrokeredEndpoint("/modules/m/inputs/c")`, 0, 0),
		named(t, "3", `FROM /* WHERE $body.a = $body.list[1] INTO BrokeredEndpoint("/modules/m/inputs/l")`, 0, 0),
	}}, "e")
	ids := func(text string) string {
		var out []string
		for _, h := range table.Match(messageOf(t, text), nil) {
			out = append(out, h.Endpoint)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ message, want string }{
		{`{"json":true,"body":{"a":1,"b":{"c":"x"},"list":[0,1]}}`, "iothub e/m/c e/m/l"},
		{`{"json":true,"body":{"b":{"c":"x"}}}`, "e/m/c e/m/l"},
		{`{"body":{"a":1}}`, ""},
		{`{"json":true,"text":"{\"a\":1"}`, ""},
		{`{"json":true,"body":{"a":1}}`, "iothub"},
	} {
		if got := ids(c.message); got != c.want {
			t.Errorf("%s: %q, want %q", c.message, got, c.want)
		}
	}
}

func TestTableServesManyGoroutines(t *testing.T) {
	cfg := &route.Config{}
	for i := range 20 {
		cfg.Routes = append(cfg.Routes, named(t, fmt.Sprint(i),
			fmt.Sprintf(`FROM /messages/modules/m%d WHERE $body.n = %d AND concat(p, '') = 'p%d' INTO BrokeredEndpoint("/modules/m/inputs/i%d")`, i, i, i, i), 0, 0))
	}
	table := route.NewTable(cfg, "e")
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for round := range 200 {
				i := (g + round) % 20
				m := moduleMessage(fmt.Sprint("m", i), "o")
				m.Properties.Set("p", fmt.Sprint("p", i))
				m.System.Set(iothub.ContentType, "application/json")
				m.System.Set(iothub.ContentEncoding, "utf-8")
				m.Body = fmt.Appendf(nil, `{"n":%d}`, i)
				hits := table.Match(m, nil)
				if len(hits) != 1 || hits[0].Endpoint != fmt.Sprint("e/m/i", i) {
					t.Errorf("message %d: %v", i, hits)
				}
			}
		})
	}
	wg.Wait()
}

func TestParseBoundsLengthAndNesting(t *testing.T) {
	long := "FROM /* WHERE a = '" + strings.Repeat("x", 70000) + "' INTO $upstream"
	if _, err := route.Parse(long); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long text: %v", err)
	}
	for _, open := range []string{"(", "NOT ", "- ", "abs(", "{", "concat('a', "} {
		_, err := route.CompileCondition(strings.Repeat(open, 5000))
		if err == nil {
			t.Errorf("%q nested deeply: accepted", open)
		}
	}
	if _, err := route.CompileCondition(strings.Repeat("(", 150) + "true" + strings.Repeat(")", 150)); err != nil {
		t.Errorf("150 parentheses: %v", err)
	}
}

func TestLongChainOfOperatorsEvaluates(t *testing.T) {
	c, err := route.CompileCondition("true" + strings.Repeat(" AND true", 7000))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Evaluate(&iothub.Message{}); got != route.True {
		t.Errorf("result %v", got)
	}
}

func TestConcatenationIsBounded(t *testing.T) {
	c, err := route.CompileCondition("is_defined(concat(a" + strings.Repeat(", a", 100) + "))")
	if err != nil {
		t.Fatal(err)
	}
	m := &iothub.Message{}
	m.Properties.Set("a", strings.Repeat("x", 100))
	if got := c.Evaluate(m); got != route.True {
		t.Errorf("short: %v", got)
	}
	m.Properties.Set("a", strings.Repeat("x", 100_000))
	if got := c.Evaluate(m); got != route.False {
		t.Errorf("10 MB: %v", got)
	}
}

func TestBodyDepthIsBounded(t *testing.T) {
	deep := func(levels int) *iothub.Message {
		m := messageOf(t, `{"json":true}`)
		m.Body = []byte(`{"a":1,"x":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`)
		return m
	}
	c, err := route.CompileCondition("$body.a = 1")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Evaluate(deep(64)); got != route.True {
		t.Errorf("64 levels: %v", got)
	}
	if got := c.Evaluate(deep(65)); got != route.Undefined {
		t.Errorf("65 levels: %v", got)
	}
	m := messageOf(t, `{"json":true}`)
	m.Body = []byte(`{"x":` + strings.Repeat("[", 200_000))
	if got := c.Evaluate(m); got != route.Undefined {
		t.Errorf("200,000 levels: %v", got)
	}
	m.Body = []byte(`{"a":1,"x":"` + strings.Repeat("y", iothub.MaxMessageSize) + `"}`)
	if got := c.Evaluate(m); got != route.Undefined {
		t.Errorf("a body beyond the largest message: %v", got)
	}
}

package conformance

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func line1(id, origin, payload string) string {
	return fmt.Sprintf(`{"event":{"origin":%q,"module":"m","properties":{"system":{"message_id":"1"},"application":{"case":%q,"a":"b"}},"annotations":{"x":"y"},"payload":%s}}`,
		origin, id, payload)
}

func TestArrivalsAreCompared(t *testing.T) {
	l := newLedger()
	l.add("not an event")
	l.add(line1("1", "d", `{"k":1,"j":[2]}`))
	l.add(line1("2", "d", `"plain"`))
	good := arrival{Case: "1", Origin: "d", Module: "m"}
	with := func(change func(*arrival)) arrival {
		a := good
		change(&a)
		return a
	}
	tests := map[string]struct {
		want arrival
		err  string // "" if it is right
	}{
		"sender":            {good, ""},
		"another sender":    {with(func(a *arrival) { a.Origin = "x" }), "sender"},
		"property":          {with(func(a *arrival) { a.Application = map[string]string{"a": "b"} }), ""},
		"missing property":  {with(func(a *arrival) { a.Application = map[string]string{"z": ""} }), `property "z"`},
		"system property":   {with(func(a *arrival) { a.System = map[string]string{"message_id": "2"} }), "system property"},
		"annotation":        {with(func(a *arrival) { a.Annotations = map[string]string{"x": "z"} }), "annotation"},
		"payload":           {with(func(a *arrival) { a.Payload = []byte(`{"j":[2],"k":1}`) }), ""},
		"another payload":   {with(func(a *arrival) { a.Payload = []byte(`{"j":[2]}`) }), "payload"},
		"payload as text":   {arrival{Case: "2", Origin: "d", Module: "m", Text: "plain"}, ""},
		"another text":      {arrival{Case: "2", Origin: "d", Module: "m", Text: "plane"}, "payload"},
		"text of JSON":      {with(func(a *arrival) { a.Text = `{"k":1,"j":[2]}` }), ""},
		"text of more JSON": {with(func(a *arrival) { a.Text = `{"k":1}` }), "payload"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := l.check([]arrival{tt.want}, false)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("%v, want %q", err, tt.err)
			}
		})
	}
	second := arrival{Case: "2", Origin: "d", Module: "m"}
	if err := l.check([]arrival{second, good}, true); err == nil {
		t.Error("the wrong order was not seen")
	}
	if err := l.check([]arrival{good, second}, true); err != nil {
		t.Error(err)
	}
	if _, ok := l.find("3", time.Millisecond); ok {
		t.Error("what has not arrived was found")
	}
	if err := l.absent([]string{"3"}); err != nil {
		t.Error(err)
	}
	if err := l.absent([]string{"3", "1"}); err == nil {
		t.Error("what must not arrive was not seen")
	}
}

func TestTable(t *testing.T) {
	r := new(report)
	r.add(result{"A", "mqtt", hubCloud, "one", passed, "fast"})
	r.add(result{"A", "mqtt", hubCloud, "two", failed, "too\n late"})
	r.add(result{"A", "mqtt", hubEdge, "one", notApplicable, "never"})
	r.add(result{"A", "mqtt", hubEdge, "two", failed, "too\n late"})
	r.add(result{"B", "amqp", hubNone, "one", passed, ""})
	var out bytes.Buffer
	r.write(&out)
	want := `CLIENT  TRANSPORT  FEATURE  IOTHUB  EDGEHUB  ENGINE  NOTE
A       mqtt       one      passed  n/a      -       iothub: fast; edgehub: never
A       mqtt       two      FAILED  FAILED   -       too late
B       amqp       one      -       -        passed  
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
	if n := r.counts(); n.passed != 2 || n.failed != 2 {
		t.Errorf("%+v", n)
	}
}

func TestMutationsComeFromTheSeed(t *testing.T) {
	stream := bytes.Repeat([]byte("0123456789"), 20)
	once := func(seed uint64) (all [][]byte) {
		r := rand.New(rand.NewPCG(seed, 0))
		for range 100 {
			all = append(all, mutate(r, stream))
		}
		return all
	}
	a, b, changed := once(1), once(1), 0
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			t.Fatalf("mutation %d differs with the same seed", i)
		}
		if !bytes.Equal(a[i], stream) {
			changed++
		}
	}
	if changed < 90 {
		t.Errorf("%d of 100 are changed", changed)
	}
	if bytes.Equal(bytes.Join(a, nil), bytes.Join(once(2), nil)) {
		t.Error("another seed gives the same")
	}
}

func TestProgramThatEndsEarly(t *testing.T) {
	w := &world{ledger: newLedger()}
	script := `read config; echo 'for people'; echo '{"feature":"a","ok":true}'; echo '{"feature":"b","ok":false,"error":"no"}'; echo late >&2; exit 3`
	s := &scenario{command: []string{"bash", "-c", script}, config: map[string]any{"x": 1}, limit: time.Minute}
	var output bytes.Buffer
	var lines []line
	err := w.runProgram(t.Context(), s, &output, func(l line) { lines = append(lines, l) })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("ended with %v", err)
	}
	if output.String() != "for people\nlate\n" {
		t.Errorf("output %q", output.String())
	}
	if len(lines) != 2 || w.judge(lines[0]) != nil || w.judge(lines[1]) == nil {
		t.Errorf("lines %+v", lines)
	}
	s = &scenario{command: []string{"bash", "-c", "sleep 600 & wait"}, config: map[string]any{}, limit: 50 * time.Millisecond}
	if err := w.runProgram(t.Context(), s, &output, func(line) {}); err == nil || !strings.Contains(err.Error(), "did not end within") {
		t.Errorf("a program that hangs ended with %v", err)
	}
}

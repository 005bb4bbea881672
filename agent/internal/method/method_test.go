package method_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/edged"
	"github.com/breakwater-iot/breakwater/agent/internal/method"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// fake is a daemon with logs.
type fake struct {
	logs      map[string][]edged.LogLine
	queries   map[string]edged.LogQuery
	restarted []string
	err       error
}

func (f *fake) Modules(context.Context) ([]plan.Engine, error) {
	var list []plan.Engine
	for _, name := range []string{"edgeAgent", "edgeHub", "filter", "sensor"} {
		list = append(list, plan.Engine{Name: name})
	}
	return list, f.err
}

func (f *fake) Restart(_ context.Context, module string) error {
	f.restarted = append(f.restarted, module)
	return f.err
}

func (f *fake) Logs(_ context.Context, module string, q edged.LogQuery, line func(edged.LogLine) error) error {
	f.queries[module] = q
	lines := f.logs[module]
	if n, err := strconv.Atoi(q.Tail); err == nil {
		lines = lines[max(0, len(lines)-n):]
	}
	for _, l := range lines {
		if err := line(l); err != nil {
			return err
		}
	}
	return nil
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func lines(texts ...string) []edged.LogLine {
	var list []edged.LogLine
	for _, s := range texts {
		list = append(list, edged.LogLine{Data: []byte(s), Time: at})
	}
	return list
}

func newFake() *fake {
	return &fake{queries: map[string]edged.LogQuery{}, logs: map[string][]edged.LogLine{
		"edgeHub": lines("<6> 2026-01-01 00:00:00.000 +01:00 one\n", "<3> 2026-01-01 00:00:01.000 +01:00 error two\n", "plain three\n", "<4> four\n"),
		"filter":  append(lines("out ", "of pieces\n"), edged.LogLine{Stderr: true, Data: []byte("unfinished"), Time: at}),
		"sensor":  lines(strings.Repeat("x", 200000) + "\n"),
	}}
}

func call(t *testing.T, f *fake, name, payload string, change ...func(*method.Options)) (int, string) {
	t.Helper()
	o := method.Options{HubName: "hub", DeviceID: "dev", Timeout: time.Minute, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	res := method.New(f, o).Handle(t.Context(), iothub.MethodRequest{Name: name, Payload: json.RawMessage(payload)})
	return res.Status, string(res.Payload)
}

func TestEnvelope(t *testing.T) {
	for _, tt := range []struct {
		name, method, payload string
		status                int
		want                  string // contained in the answer
	}{
		{"ping", "ping", ``, 200, `null`},
		{"any case", "PING", `{}`, 200, `null`},
		{"unknown", "GetLogs", `{}`, 400, `Command 'GetLogs' not found. The supported commands are - GetModuleLogs, GetTaskStatus, RestartModule, UploadLogs, UploadModuleLogs, UploadSupportBundle, ping`},
		{"no payload", "RestartModule", ``, 400, `payload`},
		{"null payload", "RestartModule", `null`, 400, `payload`},
		{"malformed payload", "RestartModule", `[1`, 400, `malformed`},
		{"no schema version", "RestartModule", `{"id":"filter"}`, 400, `schemaVersion`},
		{"other schema version", "RestartModule", `{"schemaVersion":"2.0","id":"filter"}`, 400, `schemaVersion`},
		{"no id", "RestartModule", `{"schemaVersion":"1.0"}`, 400, `id is missing`},
		{"unknown module", "RestartModule", `{"schemaVersion":"1.0","id":"Filter"}`, 500, `Module Filter not found in the current environment`},
		{"known module", "restartmodule", `{"schemaVersion":"1.1","id":"filter"}`, 200, `null`},
		{"no items", "GetModuleLogs", `{"schemaVersion":"1.0"}`, 400, `items`},
		{"bad encoding", "GetModuleLogs", `{"schemaVersion":"1.0","items":{"id":"all"},"encoding":"zip"}`, 400, `encoding`},
		{"bad content type", "GetModuleLogs", `{"schemaVersion":"1.0","items":{"id":"all"},"contentType":"xml"}`, 400, `contentType`},
		{"bad id", "GetModuleLogs", `{"schemaVersion":"1.0","items":{"id":"("}}`, 400, `id`},
		{"bad regex", "GetModuleLogs", `{"schemaVersion":"1.0","items":{"id":"a","filter":{"regex":"("}}}`, 400, `regex`},
		{"negative tail", "GetModuleLogs", `{"schemaVersion":"1.0","items":{"id":"a","filter":{"tail":-1}}}`, 400, `tail`},
		{"no match", "GetModuleLogs", `{"schemaVersion":"1.0","items":[{"id":"nothing"}]}`, 200, `[]`},
		{"too large", "GetModuleLogs", `{"schemaVersion":"1.0","items":{"id":"sensor"}}`, 400, `127000`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := call(t, newFake(), tt.method, tt.payload)
			if status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("%d %s", status, body)
			}
			if status != 200 && !strings.HasPrefix(body, `{"message":"`) {
				t.Errorf("body %s", body)
			}
		})
	}
}

func TestRestartWakesTheLoop(t *testing.T) {
	f, woken := newFake(), 0
	status, _ := call(t, f, "RestartModule", `{"schemaVersion":"1.0","id":"edgeHub"}`, func(o *method.Options) { o.Restarted = func() { woken++ } })
	if status != 200 || woken != 1 || !slices.Equal(f.restarted, []string{"edgeHub"}) {
		t.Error(status, woken, f.restarted)
	}
	f.err = errors.New("engine")
	if status, body := call(t, f, "RestartModule", `{"schemaVersion":"1.0","id":"edgeHub"}`); status != 500 || !strings.Contains(body, "engine") {
		t.Error(status, body)
	}
}

type result []struct {
	ID           string
	Payload      *string
	PayloadBytes []byte
}

func logs(t *testing.T, f *fake, request string, change ...func(*method.Options)) result {
	t.Helper()
	status, body := call(t, f, "GetModuleLogs", `{"schemaVersion":"1.0",`+request+`}`, change...)
	if status != 200 {
		t.Fatal(status, body)
	}
	var r result
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLogSelection(t *testing.T) {
	delete := func(f *fake) *fake { f.logs["sensor"] = nil; return f }
	for request, want := range map[string]string{
		`"items":{"id":"ALL"}`:                                   "edgeAgent edgeHub filter sensor",
		`"items":[{"id":"EDGE"}]`:                                "edgeAgent edgeHub",
		`"items":[{"id":"hub"},{"id":"edge"}]`:                   "edgeHub edgeAgent",
		`"items":[{"id":"^filter$"},{"id":"filter"},{"id":"x"}]`: "filter",
	} {
		var ids []string
		for _, m := range logs(t, delete(newFake()), request) {
			ids = append(ids, m.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
}

func TestLogFilters(t *testing.T) {
	first, second, third, fourth := "<6> 2026-01-01 00:00:00.000 +01:00 one\n", "<3> 2026-01-01 00:00:01.000 +01:00 error two\n", "plain three\n", "<4> four\n"
	const stamp = "2026-01-02T03:04:05.000000006Z "
	for name, tt := range map[string]struct {
		filter string
		atMost bool
		want   string
	}{
		"none":                {`{}`, false, first + second + third + fourth},
		"null":                {`null`, false, first + second + third + fourth},
		"tail":                {`{"tail":2}`, false, third + fourth},
		"level equals":        {`{"loglevel":6}`, false, first + third},
		"level of errors":     {`{"loglevel":3}`, false, second},
		"level at most":       {`{"loglevel":4}`, true, second + fourth},
		"regex":               {`{"regex":"t[wh]"}`, false, second + third},
		"regex and level":     {`{"regex":"t","loglevel":6}`, false, third},
		"timestamps":          {`{"tail":1,"includeTimestamp":true}`, false, stamp + fourth},
		"tail before regex":   {`{"tail":2,"regex":"one"}`, false, ""},
		"tail after the rest": {`{"tail":1,"since":"1h","until":"1m","regex":"o"}`, false, fourth},
		"tail 0 at the end":   {`{"tail":0,"since":"1h","until":"1m"}`, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := logs(t, newFake(), `"items":{"id":"hub","filter":`+tt.filter+`}`, func(o *method.Options) { o.LevelAtMost = tt.atMost })
			if r[0].PayloadBytes != nil || *r[0].Payload != tt.want {
				t.Errorf("got %q", *r[0].Payload)
			}
		})
	}
}

func TestDaemonAppliesTimesAndTail(t *testing.T) {
	f := newFake()
	logs(t, f, `"items":[{"id":"hub","filter":{"since":1700000000,"tail":7}},{"id":"filter","filter":{"since":"2 days","until":"2026-01-01T00:00:00Z","tail":7}}]`)
	if q := f.queries["edgeHub"]; q != (edged.LogQuery{Since: "1700000000", Tail: "7"}) {
		t.Errorf("%+v", q)
	}
	if q := f.queries["filter"]; q != (edged.LogQuery{Since: "2 days", Until: "2026-01-01T00:00:00Z"}) {
		t.Errorf("%+v", q)
	}
}

func TestPiecesMakeLines(t *testing.T) {
	r := logs(t, newFake(), `"items":{"id":"filter"}`)
	if got := *r[0].Payload; got != "out of pieces\nunfinished\n" {
		t.Errorf("%q", got)
	}
}

func TestGzip(t *testing.T) {
	r := logs(t, newFake(), `"items":{"id":"sensor"},"encoding":"GZIP"`)
	if r[0].Payload != nil {
		t.Error("payload beside payloadBytes")
	}
	z, err := gzip.NewReader(bytes.NewReader(r[0].PayloadBytes))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || len(text) != 200001 {
		t.Error(len(text), err)
	}
}

func TestJSON(t *testing.T) {
	r := logs(t, newFake(), `"items":{"id":"hub|filter","filter":{"regex":"error|plain|unfin"}},"contentType":"json"`)
	var got []map[string]any
	for _, m := range r {
		var list []map[string]any
		if err := json.Unmarshal([]byte(*m.Payload), &list); err != nil {
			t.Fatal(err)
		}
		got = append(got, list...)
	}
	want := []map[string]any{
		{"iothub": "hub", "device": "dev", "id": "edgeHub", "stream": "stdout", "loglevel": 3.0, "text": "error two", "timestamp": "2025-12-31T23:00:01.000000000Z"},
		{"iothub": "hub", "device": "dev", "id": "edgeHub", "stream": "stdout", "loglevel": 6.0, "text": "plain three", "timestamp": "2026-01-02T03:04:05.000000006Z"},
		{"iothub": "hub", "device": "dev", "id": "filter", "stream": "stderr", "loglevel": 6.0, "text": "unfinished", "timestamp": "2026-01-02T03:04:05.000000006Z"},
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) {
		t.Errorf("\n got %s\nwant %s", a, b)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("GetModuleLogs", `{"schemaVersion":"1.0","items":[{"id":"edge","filter":{"tail":1,"since":"1h","until":5,"loglevel":3,"regex":"a"}}],"encoding":"gzip"}`)
	f.Add("RestartModule", `{"schemaVersion":"1.0","id":"filter"}`)
	f.Add("ping", ``)
	h := newFake()
	f.Fuzz(func(t *testing.T, name, payload string) {
		status, body := call(t, h, name, payload)
		if status != 200 && status != 400 && status != 500 || !json.Valid([]byte(body)) || len(body) > 128<<10 && status == 200 {
			t.Errorf("%d %q", status, body)
		}
	})
}

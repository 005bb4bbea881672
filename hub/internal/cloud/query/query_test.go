package query_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/query"
	"github.com/breakwater-iot/breakwater/hub/internal/route"
)

// A golden file holds a case a line, "input --> output"; "# " starts a comment. In
// inputs, ⏎ is a line break and ⇥ a tab.
var update = flag.Bool("update", false, "rewrite the outputs in testdata")

const arrow = " --> "

var lines = strings.NewReplacer("⏎", "\n", "⇥", "\t")

func golden(t *testing.T, file string, run func(input string) string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	cases := 0
	for i, line := range all {
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		input, want, ok := strings.Cut(line, arrow)
		if !ok {
			t.Fatalf("%s:%d: no arrow", file, i+1)
		}
		cases++
		got := run(lines.Replace(input))
		if got != want {
			t.Errorf("%s:%d: %s\n got %s\nwant %s", file, i+1, input, got, want)
		}
		all[i] = input + arrow + got
	}
	if cases == 0 {
		t.Fatalf("%s: no cases", file)
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.Join(all, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// fataler is what tests and fuzz targets have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

// load reads the documents of both collections.
func load(t fataler) map[query.Collection]query.Docs {
	t.Helper()
	all := map[query.Collection]query.Docs{}
	for c, file := range map[query.Collection]string{query.Devices: "devices.json", query.Modules: "modules.json"} {
		raw, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var docs []map[string]any
		if err := d.Decode(&docs); err != nil {
			t.Fatal(err)
		}
		all[c] = sequence(docs)
	}
	return all
}

func sequence(docs []map[string]any) query.Docs {
	return func(after string) iter.Seq2[query.Doc, error] {
		return func(yield func(query.Doc, error) bool) {
			for _, body := range docs {
				key := fmt.Sprint(body["deviceId"], "/", body["moduleId"])
				if key > after && !yield(query.Doc{Key: key, Body: body}, nil) {
					return
				}
			}
		}
	}
}

// rows asks for all rows at once.
func rows(docs map[query.Collection]query.Docs, text string) ([]map[string]any, error) {
	q, err := query.Parse(text)
	if err != nil {
		return nil, err
	}
	page, err := q.Page(docs[q.Source()], "", 1000)
	if page.Next != "" {
		err = fmt.Errorf("a second page of %d rows", len(page.Rows))
	}
	return page.Rows, err
}

func TestConditionsAgainstGoldenFile(t *testing.T) {
	docs := load(t)
	golden(t, "where.golden", func(condition string) string {
		list, err := rows(docs, "SELECT deviceId FROM devices WHERE "+condition)
		if err != nil {
			return "error: " + err.Error()
		}
		ids := []string{}
		for _, row := range list {
			ids = append(ids, row["deviceId"].(string))
		}
		return strings.Join(append([]string{fmt.Sprint(len(ids), ":")}, ids...), " ")
	})
}

func TestQueriesAgainstGoldenFile(t *testing.T) {
	docs := load(t)
	golden(t, "select.golden", func(text string) string {
		list, err := rows(docs, text)
		if err != nil {
			return "error: " + err.Error()
		}
		raw, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	})
}

func TestWholeDocumentsAreLeftAsTheyAre(t *testing.T) {
	docs := load(t)
	q, err := query.Parse("SELECT * FROM devices.modules WHERE moduleId = 'temp'")
	if err != nil {
		t.Fatal(err)
	}
	page, err := q.Page(docs[query.Modules], "", 10)
	if err != nil {
		t.Fatal(err)
	}
	if !q.Whole() || len(page.Rows) != 1 || page.Rows[0]["properties"] == nil || page.Rows[0]["version"] != json.Number("3") {
		t.Errorf("%v", page.Rows)
	}
}

func TestJobsAreUnderstood(t *testing.T) {
	q, err := query.Parse("SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'x'")
	if err != nil || q.Source() != query.Jobs {
		t.Errorf("%v, %v", q, err)
	}
}

// paged asks for one page after the other.
func paged(docs query.Docs, q *query.Query, most int) (all []map[string]any, pages int, err error) {
	for token := ""; ; {
		page, err := q.Page(docs, token, most)
		if err != nil {
			return nil, 0, err
		}
		pages++
		all = append(all, page.Rows...)
		if token = page.Next; token == "" {
			return all, pages, nil
		}
	}
}

func TestPagesGiveTheSameRows(t *testing.T) {
	docs := load(t)
	for _, c := range []struct {
		text  string
		most  int
		rows  int
		pages int
	}{
		{"SELECT * FROM devices", 1, 3, 3},
		{"SELECT * FROM devices", 2, 3, 2},
		{"SELECT * FROM devices", 3, 3, 1},
		{"SELECT deviceId FROM devices WHERE status = 'enabled'", 1, 2, 2},
		{"SELECT TOP 2 deviceId FROM devices", 1, 2, 2},
		{"SELECT TOP 2 deviceId FROM devices", 2, 2, 1},
		{"SELECT deviceId FROM devices WHERE false", 1, 0, 1},
		{"SELECT moduleId, COUNT() FROM devices.modules GROUP BY moduleId", 1, 2, 2},
		{"SELECT TOP 1 moduleId, COUNT() FROM devices.modules GROUP BY moduleId", 1, 1, 1},
		{"SELECT COUNT() FROM devices", 1, 1, 1},
	} {
		q, err := query.Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		all, pages, err := paged(docs[q.Source()], q, c.most)
		if err != nil || len(all) != c.rows || pages != c.pages {
			t.Errorf("%s by %d: %d rows in %d pages, %v", c.text, c.most, len(all), pages, err)
		}
	}
}

func TestPagesDoNotShift(t *testing.T) {
	docs := []map[string]any{{"deviceId": "b"}, {"deviceId": "d"}, {"deviceId": "f"}}
	q, err := query.Parse("SELECT deviceId FROM devices")
	if err != nil {
		t.Fatal(err)
	}
	first, err := q.Page(sequence(docs), "", 2)
	if err != nil {
		t.Fatal(err)
	}
	docs = []map[string]any{{"deviceId": "a"}, {"deviceId": "e"}, {"deviceId": "f"}} // d, the last of the page, is gone
	second, err := q.Page(sequence(docs), first.Next, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(second.Rows); got != "[map[deviceId:e] map[deviceId:f]]" || second.Next != "" {
		t.Errorf("%s, then %q", got, second.Next)
	}
}

func TestTokensOfOthersAreRefused(t *testing.T) {
	docs := load(t)
	parsed := func(text string) *query.Query {
		q, err := query.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	page, err := parsed("SELECT * FROM devices").Page(docs[query.Devices], "", 1)
	if err != nil {
		t.Fatal(err)
	}
	q := parsed("SELECT deviceId FROM devices")
	for _, token := range []string{page.Next, "nonsense", "e30=", "bnVsbA=="} {
		if _, err := q.Page(docs[query.Devices], token, 1); !errors.Is(err, query.ErrToken) {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

func TestErrorsOfTheStoreEndTheQuery(t *testing.T) {
	bad := errors.New("disk on fire")
	docs := query.Docs(func(string) iter.Seq2[query.Doc, error] {
		return func(yield func(query.Doc, error) bool) { yield(query.Doc{}, bad) }
	})
	for _, text := range []string{"SELECT * FROM devices", "SELECT deviceId FROM devices", "SELECT COUNT() FROM devices"} {
		q, err := query.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.Page(docs, "", 1); !errors.Is(err, bad) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestConditionsThatStandAlone(t *testing.T) {
	doc := map[string]any{"deviceId": "d", "tags": map[string]any{"floor": json.Number("2")}}
	for text, want := range map[string]bool{
		"*": true, " * ": true, "": false, " ": false, "tags.floor > 1": true, "TAGS.floor = 1": false, "devices.tags.floor = 2": true,
		"tags.floor": false, "/* all */ true": true,
	} {
		c, err := query.ParseCondition(text)
		if err != nil || c.Holds(doc) != want {
			t.Errorf("%q: %v, %v", text, c.Holds(doc), err)
		}
	}
	for _, text := range []string{"* AND true", "tags.floor > 1 GROUP BY deviceId", "FROM devices.modules WHERE true", "tags.floor >"} {
		var e *route.Error
		if _, err := query.ParseCondition(text); !errors.As(err, &e) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTextsAreBounded(t *testing.T) {
	const begin = "SELECT * FROM devices WHERE "
	for name, text := range map[string]string{
		"length":      begin + strings.Repeat("x", 8192),
		"parentheses": begin + strings.Repeat("(", 1000),
		"negations":   begin + strings.Repeat("NOT ", 1000) + "true",
		"signs":       begin + "1 = " + strings.Repeat("-", 1000) + "1",
		"calls":       begin + strings.Repeat("is_null(", 500) + "1",
	} {
		var e *route.Error
		if _, err := query.Parse(text); !errors.As(err, &e) || !strings.Contains(e.Msg, "more than") && !strings.Contains(e.Msg, "longer than") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What was understood gives the same rows again, and by pages of one.
func FuzzQuery(f *testing.F) {
	for file, prefix := range map[string]string{"where.golden": "SELECT deviceId FROM devices WHERE ", "select.golden": ""} {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if input, _, ok := strings.Cut(line, arrow); ok {
				f.Add(prefix + lines.Replace(input))
				f.Add(lines.Replace(input))
			}
		}
	}
	docs := load(f)
	refused := func(t *testing.T, text string, err error) bool {
		var e *route.Error
		if errors.As(err, &e) && (e.Offset < 0 || e.Offset > len(text) || e.Line < 1 || e.Col < 1 || e.Msg == "") {
			t.Fatalf("%q: %+v", text, e)
		}
		return e != nil
	}
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := query.ParseCondition(text); !refused(t, text, err) && err != nil {
			t.Fatalf("%q: %v", text, err)
		} else if err == nil {
			c.Holds(map[string]any{"deviceId": "a"})
		}
		list, err := rows(docs, text)
		if refused(t, text, err) {
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		want, err := json.Marshal(list)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		q, err := query.Parse(text)
		if err != nil {
			t.Fatalf("%q, once more: %v", text, err)
		}
		if q.Source() == query.Jobs {
			return
		}
		single, _, err := paged(docs[q.Source()], q, 1)
		if err != nil {
			t.Fatalf("%q by pages: %v", text, err)
		}
		if single == nil {
			single = []map[string]any{}
		}
		if got, err := json.Marshal(single); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q: %s by pages, %s at once, %v", text, got, want, err)
		}
	})
}

// A token comes from outside: it is refused, or gives a page like any other.
func FuzzToken(f *testing.F) {
	docs := load(f)[query.Devices]
	var queries []*query.Query
	for _, text := range []string{"SELECT * FROM devices", "SELECT TOP 2 deviceId FROM devices", "SELECT deviceId, COUNT() FROM devices GROUP BY deviceId"} {
		q, err := query.Parse(text)
		if err != nil {
			f.Fatal(err)
		}
		page, err := q.Page(docs, "", 1)
		if err != nil || page.Next == "" {
			f.Fatal(page, err)
		}
		raw, err := base64.StdEncoding.DecodeString(page.Next)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		for old, changed := range map[string]string{`"n":1`: `"n":-1`, `"q":"`: `"q":"A`, `"k":"`: `"k":"\u0000`} {
			f.Add([]byte(strings.Replace(string(raw), old, changed, 1)))
		}
		f.Add([]byte(strings.Replace(string(raw), `"n":1`, `"n":9223372036854775807`, 1)))
		queries = append(queries, q)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		understood := 0
		for _, q := range queries {
			page, err := q.Page(docs, base64.StdEncoding.EncodeToString(raw), 2)
			if errors.Is(err, query.ErrToken) || err == nil && len(raw) == 0 {
				continue
			}
			understood++
			if err != nil || len(page.Rows) > 2 || page.Next != "" && len(page.Rows) == 0 {
				t.Fatalf("%q: %+v, %v", raw, page, err)
			}
		}
		if understood > 1 {
			t.Fatalf("%q is a token of %d queries", raw, understood)
		}
	})
}

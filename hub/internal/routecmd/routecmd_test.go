package routecmd_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/routecmd"
)

func TestTestWritesOneResultALine(t *testing.T) {
	in := strings.Join([]string{
		`{"condition":"a = 'x'","properties":{"a":"x"}}`,
		`{"condition":"a = 'x'","properties":{"a":"y"}}`,
		``,
		`{"condition":"a = 'x'"}`,
		`{"condition":"is_null(a)","properties":{"a":null}}`,
		`{"condition":"$messageId = '1'","systemProperties":{"messageId":"1"}}`,
		`{"condition":"$body.a.b = 5","systemProperties":{"contentType":"application/json","contentEncoding":"utf-8"},"body":{"a":{"b":5}}}`,
		`{"condition":"$body.a.b = 5","systemProperties":{"contentType":"application/json","contentEncoding":"utf-8"},"body":"{\"a\":{\"b\":5}}"}`,
		`{"condition":"$body.a = 'ä😀'","systemProperties":{"contentType":"application/json","contentEncoding":"utf-16"},"body":{"a":"ä😀"}}`,
		`{"condition":"$body.a = 'ä😀'","systemProperties":{"contentType":"application/json","contentEncoding":"utf-32"},"body":{"a":"ä😀"}}`,
		`{"condition":"$body.a.b = 5","body":{"a":{"b":5}}}`,
		`{"condition":""}`,
		`{"condition":"a = 5"}`,
		`{"condition":"a = 'x' b"}`,
	}, "\n")
	want := strings.Join([]string{
		`{"result":"true"}`, `{"result":"false"}`, `{"result":"undefined"}`, `{"result":"true"}`, `{"result":"true"}`,
		`{"result":"true"}`, `{"result":"true"}`, `{"result":"true"}`, `{"result":"true"}`,
		`{"result":"undefined"}`, `{"result":"undefined"}`,
		`{"result":"compile error","error":"line 1, column 3: \"=\" cannot join string and number: expected the same type on both sides"}`,
		`{"result":"compile error","error":"line 1, column 9: expected an operator or the end of the text, found the name \"b\""}`,
	}, "\n") + "\n"
	var out bytes.Buffer
	if err := routecmd.Test(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestTestGoesOnAfterUnreadableLines(t *testing.T) {
	in := strings.Join([]string{
		`{`, `{}`, `[]`, `{"condition":"true","extra":1}`, `{"condition":"true","properties":{"a":5}}`,
		`{"condition":"true"} {}`, `{"condition":"true"}`,
	}, "\n")
	var out bytes.Buffer
	err := routecmd.Test(strings.NewReader(in), &out)
	if !errors.Is(err, routecmd.ErrInput) || !strings.Contains(err.Error(), "6 lines") {
		t.Errorf("error %v", err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 7 || lines[6] != `{"result":"true"}` {
		t.Fatalf("output %q", lines)
	}
	for _, line := range lines[:6] {
		if !strings.HasPrefix(line, `{"result":"input error","error":"`) {
			t.Errorf("line %s", line)
		}
	}
}

func TestTestReportsReadAndWriteErrors(t *testing.T) {
	long := strings.NewReader(`{"condition":"` + strings.Repeat("x", 5<<20) + `"}`)
	if err := routecmd.Test(long, &bytes.Buffer{}); err == nil {
		t.Error("a line of 5 MiB: accepted")
	}
	if err := routecmd.Test(strings.NewReader(`{"condition":"true"}`), brokenWriter{}); !errors.Is(err, errBroken) {
		t.Errorf("a broken writer: %v", err)
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

const desired = `{"schemaVersion":"1.1",
	"routes":{
		"toCloud":"FROM /messages/* INTO $upstream",
		"alerts":{"route":"FROM /messages/modules/filter/outputs/* WHERE level = 'high'\n AND  temp = 'x' INTO BrokeredEndpoint(\"/modules/siren/inputs/in\") ","priority":0,"timeToLiveSecs":90},
		"typo":"FROM /message/* INTO $upstream;"},
	"storeAndForwardConfiguration":{"timeToLiveSecs":-1,"storeLimits":{"maxSizeBytes":1000}}}`

const report = `ok: schema version 1.1, routes: 3
time to live: messages never expire
store limit: 1000 bytes, for a store in memory

alerts
  from      /messages/modules/filter/outputs/*
  where     level = 'high'
             AND  temp = 'x'
  to        module siren, input in (endpoint edge1/siren/in)
  priority  0
  lifetime  1m30s

toCloud
  from      /messages/*
  to        upstream

typo
  from      /message/*
  to        upstream
  warning   never matches: an edge hub has no messages from this source
  warning   line 1, column 31: the text behind the endpoint is ignored: ";"
`

func TestCheckExplainsRoutesOfDesiredPropertiesAndManifests(t *testing.T) {
	for name, text := range map[string]string{
		"bare":       desired,
		"manifest":   `{"modulesContent":{"$edgeAgent":{},"$edgeHub":{"properties.desired":` + desired + `}}}`,
		"deployment": "\xef\xbb\xbf" + `{"id":"d","content":{"modulesContent":{"$edgeHub":{"properties.desired":` + desired + `}}}}`,
	} {
		var out bytes.Buffer
		if err := routecmd.Check(strings.NewReader(text), &out, "edge1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if out.String() != report {
			t.Errorf("%s:\n%s\nwant\n%s", name, out.String(), report)
		}
	}
}

func TestCheckListsAllFaults(t *testing.T) {
	var out bytes.Buffer
	err := routecmd.Check(strings.NewReader(`{"schemaVersion":"1.1","routes":{"a":"FORM","b":{"route":"FROM /* WHERE x INTO $upstream","priority":12}},
		"storeAndForwardConfiguration":{}}`), &out, "")
	if !errors.Is(err, routecmd.ErrInvalid) {
		t.Errorf("error %v", err)
	}
	want := `refused: the hub would keep its earlier configuration
  routes.a: line 1, column 1: expected FROM or SELECT, found the name "FORM"
  routes.b.priority: 12: expected 0 to 9 or 2000000000
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestCheckRefusesOtherFiles(t *testing.T) {
	for _, text := range []string{``, `{`, `[]`, `{"modulesContent":{}}`, `{"modulesContent":{"$edgeHub":{}}}`} {
		if err := routecmd.Check(strings.NewReader(text), &bytes.Buffer{}, ""); err == nil {
			t.Errorf("%q: accepted", text)
		}
	}
	if err := routecmd.Check(strings.NewReader(desired), brokenWriter{}, ""); !errors.Is(err, errBroken) {
		t.Error("a broken writer: no error")
	}
}

func TestCheckAcceptsTheDevelopmentManifest(t *testing.T) {
	file, err := os.Open("../../../deploy/manifests/development.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out bytes.Buffer
	if err := routecmd.Check(file, &out, ""); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "warning") {
		t.Errorf("warnings:\n%s", out.String())
	}
}

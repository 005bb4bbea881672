package routecmd_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

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
	bad := []string{
		`{`, `{}`, `[]`, `"true"`, `5`, `null`, `not json`, `{"condition":null}`, `{"condition":5}`, `{"condition":["true"]}`,
		`{"condition":"true","properties":{"a":{}}}`, `{"condition":"true","properties":[]}`, `{"condition":"true","systemProperties":{"a":[]}}`,
		`{"condition":"true"} {}`, `{"condition":"true"}}`, `{"condition":"true"}]`, `{"condition":"true"},`, "{\"condition\":\"\x01\"}",
		`{"condition":"` + strings.Repeat("x", 20<<20) + `"}`,
		`{"condition":"true","body":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
	}
	in := strings.Join(bad, "\n") + "\n" + `{"condition":"true"}`
	var out bytes.Buffer
	err := routecmd.Test(strings.NewReader(in), &out)
	if !errors.Is(err, routecmd.ErrInput) || !strings.Contains(err.Error(), fmt.Sprint(len(bad), " lines")) {
		t.Errorf("error %v", err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(bad)+1 || lines[len(bad)] != `{"result":"true"}` {
		t.Fatalf("%d lines of output for %d of input, the last %s", len(lines), len(bad)+1, lines[len(lines)-1])
	}
	for i, line := range lines[:len(bad)] {
		if !strings.HasPrefix(line, `{"result":"input error","error":"`) {
			t.Errorf("%.60s: %s", bad[i], line)
		}
	}
}

func TestTestTakesLinesAsTheyCome(t *testing.T) {
	value := strings.Repeat("v", 3<<20)
	in := "\xef\xbb\xbf" + `{"condition":"true"}` + "\r\n" +
		"\r\n \t\n\n" + // blank lines have no answer
		`{"name":"case 2","condition":"a = '5' AND b = 'true'","properties":{"a":5,"b":true},"expected":"true"}` + "\r\n" +
		`  {"condition":"length(a) = 3145728","properties":{"a":"` + value + `"}}  ` + "\n" +
		`{"condition":"$body.a = '` + value[:1000] + `'","systemProperties":{"contentType":"application/json","contentEncoding":"utf-8"},"body":{"a":"` + value[:1000] + `"}}` + "\n" +
		"{\"condition\":\"a = '\xff'\",\"properties\":{\"a\":\"\xff\"}}\n" +
		`{"condition":"length('\ud83d\ude00') = 2"}`
	var out bytes.Buffer
	if err := routecmd.Test(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat(`{"result":"true"}`+"\n", 6); out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}

// Who waits for an answer before the next line gets it.
func TestTestAnswersEachLineAtOnce(t *testing.T) {
	in, lines := io.Pipe()
	answers, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- routecmd.Test(in, out)
		out.Close()
	}()
	read := bufio.NewScanner(answers)
	for _, tt := range []struct{ line, answer string }{
		{`{"condition":"true"}`, `{"result":"true"}`},
		{`{"condition":"false"}`, `{"result":"false"}`},
		{`{"condition":5}`, `{"result":"input error","error":"json: cannot unmarshal number into Go struct field testCase.condition of type string"}`},
		{`{"condition":"undefined"}`, `{"result":"undefined"}`},
	} {
		if _, err := io.WriteString(lines, tt.line+"\n"); err != nil {
			t.Fatal(err)
		}
		if !read.Scan() || read.Text() != tt.answer {
			t.Errorf("%s: %s", tt.line, read.Text())
		}
	}
	lines.Close()
	if err := <-ended; !errors.Is(err, routecmd.ErrInput) {
		t.Errorf("error %v", err)
	}
}

func TestTestReportsReadAndWriteErrors(t *testing.T) {
	in := io.MultiReader(strings.NewReader(`{"condition":"true"}`+"\n"+`{"cond`), iotest.ErrReader(errBroken))
	var out bytes.Buffer
	if err := routecmd.Test(in, &out); !errors.Is(err, errBroken) || out.String() != `{"result":"true"}`+"\n" {
		t.Errorf("a broken reader: %v after %q", err, out.String())
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

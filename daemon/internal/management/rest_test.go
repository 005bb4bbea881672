package management_test

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

var update = flag.Bool("update", false, "write golden files")

// send writes a request's bytes and reads the head of the answer.
func send(t *testing.T, f *fixture, request string) (*http.Response, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("unix", f.path)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n"))
	must(t, err)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	must(t, err)
	return res, in
}

// exchange returns status line, content type and body of an answer.
func exchange(t *testing.T, f *fixture, request string) string {
	t.Helper()
	res, _ := send(t, f, request)
	body, err := io.ReadAll(res.Body)
	must(t, err)
	if len(res.TransferEncoding) == 0 && res.ContentLength != int64(len(body)) {
		t.Errorf("content length %d of %d", res.ContentLength, len(body))
	}
	return fmt.Sprintf("%s\nContent-Type: %s\n\n%s\n", res.Status, res.Header.Get("Content-Type"), body)
}

func with(line, body string) string {
	return fmt.Sprintf("%s HTTP/1.1\nHost: localhost\nContent-Type: application/json; charset=utf-8\nContent-Length: %d\nConnection: close\n\n%s", line, len(body), body)
}

func bare(line string) string { return line + " HTTP/1.1\nHost: localhost\nConnection: close\n\n" }

// varying is what depends on the machine or the moment.
var varying = regexp.MustCompile(`"(?:cpus|total_memory|kernel_release|kernel_version|architecture|process_uptime|available_space|total_space)":(?:"[^"]*"|[0-9.e+]+)|\\"(?:read|preread)\\":\\"20[^"]*\\"`)

const newModule = `{"name":"new","type":"docker","imagePullPolicy":"On-Create","future":1,"config":{"settings":{"image":"reg/a:2",` +
	`"createOptions":{"Labels":{"x":"y"},"Env":["A=options"]},"auth":{"serveraddress":"reg","username":"u","password":"hunter2"}},"env":[{"key":"A","value":"1"},{"key":"B","value":"2"}]}}`

func TestGoldenTranscripts(t *testing.T) {
	const v = "?api-version=2022-08-03"
	temp := strings.Replace(newModule, `"new"`, `"temp"`, 1)
	agent := strings.Replace(newModule, `"new"`, `"edgeAgent"`, 1)
	for _, c := range []struct {
		name, request string
		change        func(*fixture)
	}{
		{"modules", bare("GET /modules" + v), nil},
		{"modules_slash", bare("GET /modules/" + v), nil},
		{"module", bare("GET /modules/temp" + v), nil},
		{"module_exited", bare("GET /modules/temp" + v), func(f *fixture) { f.Exit("temp", 137) }},
		{"module_unknown", bare("GET /modules/nobody" + v), nil},
		{"create", with("POST /modules"+v, newModule), nil},
		{"create_slash", with("POST /modules/"+v, newModule), nil},
		{"create_oldest_version", with("POST /modules?api-version=2018-06-28", newModule), nil},
		{"create_exists", with("POST /modules"+v, temp), nil},
		{"create_no_such_image", with("POST /modules"+v, strings.Replace(newModule, "reg/a:2", "reg/none", 1)), nil},
		{"create_registry_refuses", with("POST /modules"+v, newModule), func(f *fixture) { f.Fail("Pull", runtime.ErrUnauthorized) }},
		{"create_engine_fails", with("POST /modules"+v, newModule), func(f *fixture) { f.Fail("Create", runtime.ErrUnavailable) }},
		{"create_bad_json", with("POST /modules"+v, `{"name":`), nil},
		{"create_empty", with("POST /modules"+v, ""), nil},
		{"create_not_an_object", with("POST /modules"+v, `[]`), nil},
		{"create_wrong_type", with("POST /modules"+v, strings.Replace(newModule, `"new"`, `5`, 1)), nil},
		{"create_no_name", with("POST /modules"+v, `{"type":"docker"}`), nil},
		{"create_other_type", with("POST /modules"+v, strings.Replace(newModule, `"docker"`, `"wasm"`, 1)), nil},
		{"create_env_twice", with("POST /modules"+v, strings.Replace(newModule, `"key":"B"`, `"key":"A"`, 1)), nil},
		{"create_options_as_text", with("POST /modules"+v, strings.Replace(newModule, `{"Labels":{"x":"y"},"Env":["A=options"]}`, `"{}"`, 1)), nil},
		{"create_wrong_content_type", strings.Replace(with("POST /modules"+v, newModule), "application/json", "text/plain", 1), nil},
		{"create_no_content_type", strings.Replace(with("POST /modules"+v, newModule), "Content-Type: application/json; charset=utf-8\n", "", 1), nil},
		{"update", with("PUT /modules/temp"+v, temp), nil},
		{"update_start", with("PUT /modules/temp"+v+"&start=true", temp), nil},
		{"update_start_malformed", with("PUT /modules/temp"+v+"&start=yes", temp), nil},
		{"update_other_name", with("PUT /modules/temp"+v, newModule), nil},
		{"update_agent", with("PUT /modules/edgeAgent"+v+"&start=true", agent), nil},
		{"delete", bare("DELETE /modules/temp" + v), nil},
		{"delete_unknown", bare("DELETE /modules/nobody" + v), nil},
		{"start", bare("POST /modules/temp/start" + v), nil},
		{"start_with_a_body", with("POST /modules/temp/start"+v, "anything"), nil},
		{"start_unknown", bare("POST /modules/nobody/start" + v), nil},
		{"stop", bare("POST /modules/temp/stop" + v), nil},
		{"restart", bare("POST /modules/temp/restart" + v), nil},
		{"prepareupdate", with("POST /modules/temp/prepareupdate"+v, temp), nil},
		{"prepareupdate_other_name", with("POST /modules/temp/prepareupdate"+v, newModule), nil},
		{"prepareupdate_first_version", with("POST /modules/temp/prepareupdate?api-version=2019-01-30", temp), nil},
		{"prepareupdate_too_old", with("POST /modules/temp/prepareupdate?api-version=2018-06-28", temp), nil},
		{"logs_unknown", bare("GET /modules/nobody/logs" + v), nil},
		{"logs_bad_tail", bare("GET /modules/temp/logs" + v + "&tail=few"), nil},
		{"logs_bad_follow", bare("GET /modules/temp/logs" + v + "&follow=1"), nil},
		{"logs_bad_since", bare("GET /modules/temp/logs" + v + "&since=soon"), nil},
		{"logs_post", bare("POST /modules/temp/logs" + v), nil},
		{"identities", bare("GET /identities" + v), nil},
		{"identities_slash", bare("GET /identities/" + v), nil},
		{"identity_create", with("POST /identities"+v, `{"moduleId":"temp"}`), nil},
		{"identity_create_managed", with("POST /identities"+v, `{"moduleId":"temp","managedBy":"Me"}`), nil},
		{"identity_create_null_manager", with("POST /identities"+v, `{"moduleId":"temp","managedBy":null}`), nil},
		{"identity_update", with("PUT /identities/%24edgeHub"+v, `{"generationId":"1","managedBy":"Me"}`), nil},
		{"identity_update_wrong_type", with("PUT /identities/temp"+v, `{"generationId":1}`), nil},
		{"identity_delete", bare("DELETE /identities/temp" + v), nil},
		{"identity_hub_away", with("POST /identities"+v, `{"moduleId":"temp"}`), func(f *fixture) { f.registrar.err = identity.ErrUnavailable }},
		{"systeminfo", bare("GET /systeminfo" + v), nil},
		{"resources", bare("GET /systeminfo/resources" + v), nil},
		{"resources_too_old", bare("GET /systeminfo/resources?api-version=2019-10-22"), nil},
		{"bundle_too_old", bare("GET /systeminfo/supportbundle?api-version=2019-11-05"), nil},
		{"bundle_bad_member", bare("GET /systeminfo/supportbundle" + v + "&edge_runtime_only=maybe"), nil},
		{"bundle_bad_since", bare("GET /systeminfo/supportbundle" + v + "&since=soon"), nil},
		{"bundle_post", bare("POST /systeminfo/supportbundle" + v), nil},
		{"reprovision", bare("POST /device/reprovision" + v), nil},
		{"reprovision_too_old", bare("POST /device/reprovision?api-version=2019-01-30"), nil},
		{"no_version", bare("GET /modules"), nil},
		{"unknown_version", bare("GET /modules?api-version=2017-01-01"), nil},
		{"unknown_path", bare("GET /nothing" + v), nil},
		{"unknown_path_put", with("PUT /nothing/x"+v, "{"), nil},
		{"wrong_verb", bare("GET /modules/temp/start" + v), nil},
		{"workload_path", with("POST /modules/temp/genid/1/sign"+v, "{}"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := prepared(t, "edgeAgent")
			if c.change != nil {
				c.change(f)
			}
			got := varying.ReplaceAllStringFunc(exchange(t, f, c.request), func(s string) string {
				name, _, _ := strings.Cut(s, ":")
				return name + ":(varies)"
			})
			path := filepath.Join("testdata", c.name+".golden")
			if *update {
				must(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			must(t, err)
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if strings.Contains(f.log.String()+got, "hunter2") {
				t.Error("password is shown")
			}
		})
	}
}

// prepared is a fixture with one running module that has written two lines.
func prepared(t *testing.T, caller string) *fixture {
	t.Helper()
	f := serve(t, caller)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	f.Now = func() time.Time { return at }
	must(t, f.manager.Create(t.Context(), module.Spec{Name: "temp", Image: "reg/a:1"}))
	must(t, f.manager.Start(t.Context(), "temp"))
	f.Write("temp", runtime.Stdout, "one\n")
	f.Write("temp", runtime.Stderr, "two\n")
	return f
}

// frames splits what the logs call answers.
func frames(t *testing.T, in io.Reader) (out []string) {
	t.Helper()
	for {
		var head [8]byte
		if _, err := io.ReadFull(in, head[:]); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if head[1]|head[2]|head[3] != 0 {
			t.Fatalf("head %v", head)
		}
		text := make([]byte, binary.BigEndian.Uint32(head[4:]))
		_, err := io.ReadFull(in, text)
		must(t, err)
		out = append(out, fmt.Sprintf("%d %s", head[0], text))
	}
}

func TestLogFrames(t *testing.T) {
	f := prepared(t, "edgeAgent")
	for query, want := range map[string][]string{
		"":                                   {"1 one\n", "2 two\n"},
		"&tail=all":                          {"1 one\n", "2 two\n"},
		"&tail=1":                            {"2 two\n"},
		"&tail=0":                            nil,
		"&since=2027-01-01T00:00:00Z":        nil,
		"&since=1%20day%202%20hours&tail=5":  nil,
		"&until=1000":                        nil,
		"&timestamps=true&tail=1":            {"2 2026-01-02T03:04:05.000006000Z two\n"},
		"&follow=false&timestamps=false":     {"1 one\n", "2 two\n"},
		"&since=1767000000&until=1768000000": {"1 one\n", "2 two\n"},
	} {
		res, _ := send(t, f, bare("GET /modules/temp/logs?api-version=2018-06-28"+query))
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/plain" || !slices.Equal(res.TransferEncoding, []string{"chunked"}) {
			t.Errorf("%s: %s %v", query, res.Status, res.Header)
		}
		if got := frames(t, res.Body); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

func TestLogFramesFollowUntilTheModuleEnds(t *testing.T) {
	f := serve(t, "edgeAgent")
	must(t, f.manager.Create(t.Context(), module.Spec{Name: "temp", Image: "reg/a:1"}))
	must(t, f.manager.Start(t.Context(), "temp"))
	// The head comes although the module is silent.
	res, _ := send(t, f, bare("GET /modules/temp/logs?api-version=2022-08-03&follow=true"))
	line := make([]byte, 8+4)
	for _, text := range []string{"one\n", "two\n"} {
		f.Write("temp", runtime.Stdout, text)
		if _, err := io.ReadFull(res.Body, line); err != nil || string(line[8:]) != text {
			t.Fatalf("%q, %v", line, err)
		}
	}
	f.Exit("temp", 0)
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Fatalf("%q, %v", rest, err)
	}
}

func TestBrokenLogIsNotAWholeOne(t *testing.T) {
	f := serve(t, "edgeAgent")
	must(t, f.manager.Create(t.Context(), module.Spec{Name: "temp", Image: "reg/a:1"}))
	must(t, f.manager.Start(t.Context(), "temp"))
	f.Fail("Logs", runtime.ErrUnavailable)
	res, _ := send(t, f, bare("GET /modules/temp/logs?api-version=2022-08-03"))
	if text, err := io.ReadAll(res.Body); err == nil {
		t.Fatalf("%s with %q looks like a whole answer", res.Status, text)
	}
}

func TestRESTDecidesAsGRPC(t *testing.T) {
	operator := os.Getuid() == 0
	const v = "?api-version=2022-08-03"
	for _, caller := range []string{"edgeAgent", "temp", ""} {
		reads := caller == "edgeAgent" || caller == "" && operator
		writes := caller == "edgeAgent"
		for request, allowed := range map[string]bool{
			bare("GET /modules" + v):                             reads,
			bare("GET /modules/temp" + v):                        reads,
			with("POST /modules"+v, newModule):                   writes,
			with("PUT /modules/new"+v, newModule):                writes,
			bare("DELETE /modules/temp" + v):                     writes,
			bare("POST /modules/temp/start" + v):                 reads,
			bare("POST /modules/temp/stop" + v):                  reads,
			bare("POST /modules/temp/restart" + v):               reads,
			with("POST /modules/new/prepareupdate"+v, newModule): writes,
			bare("GET /modules/temp/logs" + v):                   reads,
			bare("GET /identities" + v):                          reads,
			with("POST /identities"+v, `{"moduleId":"temp"}`):    writes,
			with("PUT /identities/temp"+v, `{}`):                 writes,
			bare("DELETE /identities/temp" + v):                  writes,
			bare("GET /systeminfo" + v):                          reads,
			bare("GET /systeminfo/resources" + v):                reads,
			bare("GET /systeminfo/supportbundle" + v):            reads,
			bare("POST /device/reprovision" + v):                 reads,
		} {
			f := prepared(t, caller)
			forged := strings.Replace(request, "Host:", "Grpc-Metadata-Module: edgeAgent\nX-Forwarded-For: 127.0.0.1\nHost:", 1)
			got := exchange(t, f, forged)
			line, _, _ := strings.Cut(request, " HTTP")
			if refused := strings.HasPrefix(got, "403 "); refused == allowed || !refused && got[0] != '2' {
				t.Errorf("%q %s: %s", caller, line, got)
			}
			if !allowed && !strings.HasSuffix(got, `{"message":"forbidden"}`+"\n") {
				t.Errorf("%q %s: %s", caller, line, got)
			}
			if n := f.reprovisions.Load(); n > 0 != (allowed && strings.Contains(request, "reprovision")) {
				t.Errorf("%q %s: %d reprovisions", caller, line, n)
			}
		}
	}
}

func TestSupportBundle(t *testing.T) {
	f := prepared(t, "edgeAgent")
	must(t, f.manager.Create(t.Context(), module.Spec{
		Name: "edgeHub", Image: "reg/a:1", Create: createopts.Options{Labels: map[string]string{"note": "HostName=h;SharedAccessKey=geheim"}},
	}))
	must(t, f.manager.Start(t.Context(), "edgeHub"))
	f.Write("edgeHub", runtime.Stdout, "login with SharedAccessKey=geheim; done\n")
	f.Write("edgeHub", runtime.Stdout, "-----BEGIN PRIVATE KEY-----\n")
	f.Write("edgeHub", runtime.Stderr, "meanwhile\n")
	f.Write("edgeHub", runtime.Stdout, "geheim\n")
	f.Write("edgeHub", runtime.Stdout, "-----END PRIVATE KEY-----\n")
	for query, want := range map[string][]string{
		"":                               {"system.json", "inspect/edgeHub.json", "logs/edgeHub_log.txt", "inspect/temp.json", "logs/temp_log.txt", "check.json"},
		"&edge_runtime_only=true":        {"system.json", "inspect/edgeHub.json", "logs/edgeHub_log.txt", "check.json"},
		"&iothub_hostname=x&since=1%20h": {"system.json", "inspect/edgeHub.json", "logs/edgeHub_log.txt", "inspect/temp.json", "logs/temp_log.txt", "check.json"},
	} {
		res, _ := send(t, f, bare("GET /systeminfo/supportbundle?api-version=2020-07-07"+query))
		body, err := io.ReadAll(res.Body)
		must(t, err)
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/zip" {
			t.Fatalf("%s: %s %s", query, res.Status, body)
		}
		z, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
		must(t, err)
		var got []string
		texts := map[string]string{}
		for _, file := range z.File {
			got = append(got, file.Name)
			r, err := file.Open()
			must(t, err)
			text, err := io.ReadAll(r)
			must(t, err)
			texts[file.Name] = string(text)
			if strings.Contains(string(text), "geheim") {
				t.Errorf("%s: %s has a secret: %s", query, file.Name, text)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: files %v", query, got)
		}
		if hub := `"hub":"x"`; strings.Contains(texts["check.json"], hub) != strings.Contains(query, "iothub_hostname=x") {
			t.Errorf("%s: checks are done as %s", query, texts["check.json"])
		}
		if log, ok := texts["logs/temp_log.txt"]; ok && query == "" &&
			log != "2026-01-02T03:04:05.000006000Z one\n2026-01-02T03:04:05.000006000Z two\n" {
			t.Errorf("log %q", log)
		}
		if log := texts["logs/edgeHub_log.txt"]; query == "" && !strings.Contains(log, "SharedAccessKey=***; done\n") {
			t.Errorf("log %q", log)
		}
		if !strings.Contains(texts["inspect/edgeHub.json"], `"reg/a:1"`) || !strings.Contains(texts["system.json"], "kernel_release") {
			t.Errorf("%s: %v", query, texts)
		}
	}
	f.Fail("Logs", runtime.ErrUnavailable)
	stream, err := f.system.SupportBundle(t.Context(), &managementv1.SupportBundleRequest{})
	must(t, err)
	size := 0
	for {
		c, err := stream.Recv()
		if err == io.EOF {
			break
		}
		must(t, err)
		size += len(c.GetData())
	}
	if size < 500 {
		t.Errorf("bundle of %d bytes", size)
	}
}

func TestStatisticsCompareWithTheCallBefore(t *testing.T) {
	f := prepared(t, "edgeAgent")
	read := func() (out []struct {
		Name   string
		CPU    struct{ System uint64 } `json:"cpu_stats"`
		Precpu struct {
			Usage struct {
				Total uint64 `json:"total_usage"`
			} `json:"cpu_usage"`
			System uint64 `json:"system_cpu_usage"`
		} `json:"precpu_stats"`
	}) {
		_, body, _ := strings.Cut(exchange(t, f, bare("GET /systeminfo/resources?api-version=2022-08-03")), "\n\n")
		var doc struct {
			DockerStats string `json:"docker_stats"`
		}
		must(t, json.Unmarshal([]byte(body), &doc))
		must(t, json.Unmarshal([]byte(doc.DockerStats), &out))
		return out
	}
	if first := read(); len(first) != 1 || first[0].Name != "/temp" || first[0].Precpu.Usage.Total != 0 || first[0].Precpu.System != 0 {
		t.Errorf("first %+v", first)
	}
	if second := read(); len(second) != 1 || second[0].Precpu.Usage.Total != 1e9 || second[0].Precpu.System == 0 {
		t.Errorf("second %+v", second)
	}
}

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

const patience = 30 * time.Second

// output collects what a command prints and lets tests wait for it.
type output struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{}
}

func newOutput() *output { return &output{more: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) waitFor(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(o.String(), text) {
		select {
		case <-o.more:
		case <-deadline:
			t.Fatalf("no %q in %s", text, o)
		}
	}
}

// hub is a running `iothub serve`, and a way to run the other subcommands on it.
type hub struct {
	t    *testing.T
	dir  string
	host string
	mqtt string
	stop func()
}

func startHub(t *testing.T) *hub {
	t.Helper()
	t.Setenv("IOTHUB_CONNECTION_STRING", "")
	h := &hub{t: t, dir: filepath.Join(t.TempDir(), "hub"), host: "127.0.0.1:0", mqtt: "127.0.0.1:0"}
	t.Cleanup(func() { h.stop() })
	h.start()
	return h
}

// start runs the hub, on the ports that it had before.
func (h *hub) start() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, errOut := newOutput(), newOutput()
	code := make(chan int, 1)
	_, httpsPort, _ := strings.Cut(h.host, ":")
	_, mqttPort, _ := strings.Cut(h.mqtt, ":")
	go func() {
		code <- run(ctx, []string{"serve", "--data", h.dir, "--hostname", "hub.test", "--address", "127.0.0.1",
			"--https-port", httpsPort, "--mqtt-port", mqttPort, "--amqp-port", "0", "--log-level", "warn"}, environment{out: out, err: errOut})
	}()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if c := <-code; c != 0 || errOut.String() != "" {
			h.t.Errorf("serve exited with %d: %s", c, errOut)
		}
	})
	out.waitFor(h.t, "\n")
	line := strings.Fields(out.String())
	if len(line) != 6 || line[0] != "iothub" || line[1] != "ready" {
		h.t.Fatalf("said %q", line)
	}
	h.host, h.mqtt = strings.TrimPrefix(line[3], "https="), strings.TrimPrefix(line[4], "mqtt=")
}

// do runs a subcommand and returns what it printed, and its exit code.
func (h *hub) do(args ...string) (out, errOut string, code int) {
	h.t.Helper()
	var o, e bytes.Buffer
	code = run(h.t.Context(), append(args, "--data", h.dir, "--host", h.host), environment{in: strings.NewReader(`{"from":"stdin"}`), out: &o, err: &e})
	return o.String(), e.String(), code
}

func (h *hub) must(args ...string) string {
	h.t.Helper()
	out, errOut, code := h.do(args...)
	if code != 0 {
		h.t.Fatalf("%v: exit %d: %s", args, code, errOut)
	}
	return out
}

func TestDevices(t *testing.T) {
	h := startHub(t)
	edge, err := connstr.Parse(h.must("device", "create", "edge1", "--edge"))
	if err != nil || edge.HostName != "hub.test" || edge.DeviceID != "edge1" || len(edge.SharedAccessKey) != 32 {
		t.Errorf("%v, %v", edge, err)
	}
	leaf, err := connstr.Parse(h.must("device", "create", "leaf1", "--parent", "edge1", "--gateway", "gw"))
	if err != nil || leaf.GatewayHostName != "gw" {
		t.Errorf("%v, %v", leaf, err)
	}
	if again := h.must("device", "connection-string", "edge1"); strings.TrimSpace(again) != edge.Reveal() {
		t.Errorf("%s", again)
	}
	h.must("device", "create", "edge2", "--edge", "--parent", "edge1")
	table := h.must("device", "list")
	for _, want := range []string{"DEVICE", "edge1", "leaf1", "ms-azure-iot-edge://edge1-"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %s in\n%s", want, table)
		}
	}
	var list []map[string]any
	if err := json.Unmarshal([]byte(h.must("device", "list", "--output", "json")), &list); err != nil || len(list) != 3 {
		t.Errorf("%d devices, %v", len(list), err)
	}
	var shown struct{ ParentScopes []string }
	if err := json.Unmarshal([]byte(h.must("device", "show", "edge2")), &shown); err != nil || len(shown.ParentScopes) != 1 {
		t.Errorf("%+v, %v", shown, err)
	}
	if modules := h.must("module", "list", "edge1"); !strings.Contains(modules, "$edgeHub") {
		t.Error(modules)
	}
	if m := h.must("module", "show", "edge1", "$edgeHub"); !strings.Contains(m, `"type": "none"`) {
		t.Error(m)
	}
	h.must("device", "delete", "leaf1")
	if _, _, code := h.do("device", "show", "leaf1"); code != exitRefused {
		t.Errorf("deleted device: exit %d", code)
	}
}

func TestDeployTwinAndMethod(t *testing.T) {
	h := startHub(t)
	h.must("device", "create", "e", "--edge")
	content := `{"modulesContent":{"m":{"properties.desired":{"n":9007199254740993.5}}}}`
	for i, body := range []string{content, `{"content":` + content + `}`} {
		file := filepath.Join(t.TempDir(), "m.json")
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := h.must("deploy", "--device", "e", file); out != "" {
			t.Errorf("%d printed %s", i, out)
		}
	}
	if tw := h.must("twin", "show", "e", "m"); !strings.Contains(tw, "9007199254740993.5") || !strings.Contains(tw, `"$version": 2`) {
		t.Error(tw)
	}
	if tw := h.must("twin", "patch", "e", "m", "--desired", "-", "--tags", `{"t":1}`); !strings.Contains(tw, `"from": "stdin"`) || !strings.Contains(tw, `"t": 1`) {
		t.Error(tw)
	}
	if rows := h.must("query", "SELECT deviceId, tags.t FROM devices.modules WHERE moduleId = 'm' AND properties.desired.from = 'stdin'"); strings.Join(strings.Fields(rows), "") != `[{"deviceId":"e","t":1}]` {
		t.Error(rows)
	}
	if _, errOut, code := h.do("query", "SELECT"); code != exitRefused || !strings.Contains(errOut, "line 1, column 7") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	layer := filepath.Join(t.TempDir(), "layer.json")
	if err := os.WriteFile(layer, []byte(`{"modulesContent":{"m":{"properties.desired.layer":1}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := h.must("deployment", "create", "layer", layer, "--condition", "deviceId = 'e'", "--priority", "7"); !strings.Contains(out, `"targetedCount": 1`) {
		t.Error(out)
	}
	if out := strings.Join(strings.Fields(h.must("deployment", "list")), " "); out != "ID PRIORITY CONDITION TARGETED APPLIED SUCCESSFUL FAILED layer 7 deviceId = 'e' 1 0 0 0" {
		t.Error(out)
	}
	if out := h.must("deployment", "show", "layer"); !strings.Contains(out, `"properties.desired.layer": 1`) {
		t.Error(out)
	}
	h.must("deployment", "delete", "layer")
	if _, errOut, code := h.do("deployment", "show", "layer"); code != exitRefused || !strings.Contains(errOut, "ConfigurationNotFound") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	_, errOut, code := h.do("method", "e", "m", "ping", "--payload", "{}")
	if code != exitRefused || !strings.Contains(errOut, "404103") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if out := h.must("monitor", "--since", "beginning", "--follow=false", "--output", "json"); out != "" {
		t.Errorf("events from nowhere: %s", out)
	}
}

func TestExitCodes(t *testing.T) {
	h := startHub(t)
	empty := filepath.Join(t.TempDir(), "empty.json")
	if err := os.WriteFile(empty, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		code int
		args []string
	}{
		{exitUsage, []string{"nothing"}},
		{exitUsage, []string{"device", "create"}},
		{exitUsage, []string{"device", "create", "a/b"}},
		{exitUsage, []string{"twin", "patch", "d"}},
		{exitUsage, []string{"twin", "patch", "d", "--desired", "{"}},
		{exitUsage, []string{"deploy", "--device", "d", empty}},
		{exitUsage, []string{"method", "d"}},
		{exitFailed, []string{"deploy", "--device", "d", empty + "x"}},
		{exitRefused, []string{"device", "show", "none"}},
		{exitRefused, []string{"device", "create", "x", "--parent", "none"}},
		{exitRefused, []string{"monitor", "--since", "never"}},
	} {
		if _, errOut, code := h.do(tt.args...); code != tt.code || (code != 0) != strings.HasPrefix(errOut, "iothub: ") {
			t.Errorf("%v: exit %d: %s", tt.args, code, errOut)
		}
	}
	var o, e bytes.Buffer
	env := environment{out: &o, err: &e}
	if code := run(t.Context(), []string{"--help"}, env); code != 0 || !strings.Contains(o.String(), "connection-string") {
		t.Errorf("--help: exit %d, %s", code, o.String())
	}
	if code := run(t.Context(), []string{"device", "list"}, env); code != exitUsage {
		t.Errorf("without a login: exit %d", code)
	}
	if code := run(t.Context(), []string{"device", "list", "--login", "HostName=h;SharedAccessKeyName=x;SharedAccessKey=???"}, env); code != exitUsage || strings.Contains(e.String(), "???") {
		t.Errorf("with a bad login: exit %d, %s", code, e.String())
	}
}

func TestUnreachableHub(t *testing.T) {
	h := startHub(t)
	h.host = "127.0.0.1:1"
	if _, errOut, code := h.do("device", "list"); code != exitUnreachable {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

// connect connects a device, with a client that is not ours.
func (h *hub) connect(login string, more ...func(*paho.ClientOptions)) paho.Client {
	h.t.Helper()
	device, err := connstr.Parse(login)
	if err != nil {
		h.t.Fatal(err)
	}
	token, err := sas.New(sas.DeviceResource(device.HostName, device.Identity()), time.Now().Add(time.Hour), "", device.SharedAccessKey.Sign)
	if err != nil {
		h.t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(h.dir, "root.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(raw)
	o := paho.NewClientOptions().AddBroker("ssl://" + h.mqtt).SetClientID(device.DeviceID).
		SetUsername(device.HostName + "/" + device.DeviceID + "/?api-version=2021-04-12").SetPassword(token).
		SetProtocolVersion(4).SetAutoReconnect(false).SetTLSConfig(&tls.Config{RootCAs: roots, ServerName: device.HostName})
	for _, f := range more {
		f(o)
	}
	c := paho.NewClient(o)
	h.wait(c.Connect())
	return c
}

func (h *hub) wait(token paho.Token) {
	h.t.Helper()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		h.t.Fatal(token.Error())
	}
}

// send sends one message as a device.
func (h *hub) send(login, body string) {
	h.t.Helper()
	device, err := connstr.Parse(login)
	if err != nil {
		h.t.Fatal(err)
	}
	c := h.connect(login)
	h.wait(c.Publish("devices/"+device.DeviceID+"/messages/events/k=v&%24.ct=application%2Fjson", 1, false, body))
	c.Disconnect(0)
}

func TestMonitorFollowsOverARestartAndPrintsNothingTwice(t *testing.T) {
	h := startHub(t)
	login := strings.TrimSpace(h.must("device", "create", "d"))
	h.send(login, `{"n":1}`)
	ctx, cancel := context.WithCancel(t.Context())
	out, errOut := newOutput(), newOutput()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"monitor", "--since", "beginning", "--data", h.dir, "--host", h.host}, environment{out: out, err: errOut})
	}()
	out.waitFor(t, `{"n":1}`)
	h.stop()
	errOut.waitFor(t, "trying again")
	h.start()
	h.send(login, `{"n":2}`)
	out.waitFor(t, `{"n":2}`)
	cancel()
	if c := <-code; c != 0 {
		t.Errorf("exit %d", c)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "0 ") || !strings.HasSuffix(lines[1], ` d {"n":2} {"k":"v"}`) {
		t.Errorf("%q", lines)
	}
	var e rest.EventLine
	if err := json.Unmarshal([]byte(h.must("monitor", "--since", "1", "--no-follow", "--output", "json")), &e); err != nil ||
		e.Event.Origin != "d" || string(e.Event.Payload) != `{"n":2}` {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestMessagesToADevice(t *testing.T) {
	h := startHub(t)
	login := h.must("device", "create", "d")
	if out := h.must("message", "send", "d", "--body", "hello", "--id", "m1", "--ack", "full", "--property", "a=b;c=d", "--property", "e=",
		"--content-type", "text/plain", "--ttl", "5m"); out != "" {
		t.Errorf("printed %q", out)
	}
	h.must("message", "send", "d", "--body", "-", "--ack", "negative", "--correlation-id", "c")
	got := newOutput()
	c := h.connect(login, func(o *paho.ClientOptions) { o.SetCleanSession(false) })
	h.wait(c.Subscribe("devices/d/messages/devicebound/#", 1, func(_ paho.Client, m paho.Message) {
		_, _ = got.Write([]byte(m.Topic() + " " + string(m.Payload()) + "\n"))
	}))
	got.waitFor(t, "stdin")
	// Paho may say goodbye before its last PUBACK, and then the message waits on.
	for deadline := time.Now().Add(patience); !strings.Contains(h.must("device", "show", "d"), `"cloudToDeviceMessageCount": 0`); {
		if time.Now().After(deadline) {
			t.Fatal("not acknowledged")
		}
	}
	c.Disconnect(250)
	for _, want := range []string{"%24.mid=m1&", "%24.ct=text%2Fplain", "iothub-ack=full", "&a=b%3Bc%3Dd", "&e=", "%24.exp=", " hello\n", "%24.cid=c", ` {"from":"stdin"}`} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	feedback := ""
	for deadline := time.Now().Add(patience); feedback == "" && time.Now().Before(deadline); {
		feedback = h.must("message", "feedback")
	}
	var record rest.FeedbackRecord
	if err := json.Unmarshal([]byte(feedback), &record); err != nil || record.OriginalMessageID != "m1" || record.StatusCode != "Success" || record.DeviceID != "d" {
		t.Errorf("feedback %q, %v", feedback, err)
	}
	if again := h.must("message", "feedback"); again != "" {
		t.Errorf("feedback again: %s", again)
	}
	h.must("message", "send", "d", "--body", "x")
	if out := h.must("message", "purge", "d"); !strings.Contains(out, `"totalMessagesPurged": 1`) {
		t.Errorf("purge: %s", out)
	}
	for code, args := range map[int][]string{
		exitRefused: {"message", "send", "none", "--body", "x"},
		exitUsage:   {"message", "send", "d", "--body", "x", "--ack", "some"},
		exitFailed:  {"message", "send", "d", "--body", "@/does/not/exist"},
	} {
		if _, errOut, got := h.do(args...); got != code {
			t.Errorf("%v: exit %d: %s", args, got, errOut)
		}
	}
}

func TestConnectionStringsOfAPolicy(t *testing.T) {
	h := startHub(t)
	login, err := connstr.Parse(h.must("connection-string"))
	if err != nil || login.HostName != "hub.test" || login.SharedAccessKeyName != "iothubowner" {
		t.Fatalf("%v, %v", login, err)
	}
	want := "Endpoint=sb://hub.test/;SharedAccessKeyName=iothubowner;SharedAccessKey=" + login.SharedAccessKey.Base64() + ";EntityPath=iothub-ehub-hub-1-0\n"
	if got := h.must("connection-string", "--event-hub"); got != want {
		t.Errorf("%s", got)
	}
}

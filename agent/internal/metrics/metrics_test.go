package metrics_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/metrics"
	"github.com/breakwater-iot/breakwater/agent/internal/reconcile"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// expect looks for a series by its name, some of its labels, and its value.
func expect(t *testing.T, text, name, labels, value string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, labels) && strings.HasSuffix(line, " "+value+"\n") {
			return
		}
	}
	t.Errorf("no %s{%s} %s in\n%s", name, labels, value, text)
}

func TestBordersAreCounted(t *testing.T) {
	m := metrics.New(metrics.Labels{Hub: "hub", Device: "dev", Version: "1.2.3"})
	fake := edgedtest.New("agent:1")
	d := m.Daemon(fake)
	ctx := t.Context()
	m.Observe(reconcile.Cycle{Modules: map[string]reconcile.Sample{"m": {Version: "7"}}, Worked: 2 * time.Second})
	spec := launch.Spec{Name: "m", Version: "7"}
	if err := errors.Join(d.Pull(ctx, spec), d.Create(ctx, spec), d.Start(ctx, "m"), d.Stop(ctx, "m"), d.Update(ctx, spec, false), d.Remove(ctx, "m")); err != nil {
		t.Fatal(err)
	}
	hub := edgedtest.NewCloud(`{"$version":1}`)
	c := m.Cloud(hub)
	_, _ = c.Twin(ctx)
	hub.SetDown(true)
	if err := c.PatchReported(ctx, json.RawMessage(`{}`)); err == nil {
		t.Error("the error is swallowed")
	}
	methods := m.Methods(func(_ context.Context, r iothub.MethodRequest) iothub.MethodResponse {
		if r.Name == "ping" {
			return iothub.MethodResponse{Status: 200}
		}
		return iothub.MethodResponse{Status: 400}
	})
	methods(ctx, iothub.MethodRequest{Name: "ping"})
	methods(ctx, iothub.MethodRequest{Name: "anything"})

	text := scrape(t, m)
	expect(t, text, "edgeAgent_module_start_total", `module_name="m",module_version="7",ms_telemetry="True"`, "1")
	expect(t, text, "edgeAgent_module_stop_total", `module_version="7"`, "1")
	expect(t, text, "edgeAgent_module_prepare_update_total", `edge_device="dev"`, "1")
	for _, command := range []string{"prepareUpdate", "create", "start", "stop", "update", "remove"} {
		expect(t, text, "edgeAgent_command_latency_seconds_count", `command="`+command+`"`, "1")
	}
	expect(t, text, "edgeAgent_iothub_syncs_total", `iothub="hub"`, "2")
	expect(t, text, "edgeAgent_unsuccessful_iothub_syncs_total", `iothub="hub"`, "1")
	expect(t, text, "edgeAgent_deployment_time_seconds_sum", `iothub="hub"`, "2")
	expect(t, text, "edgeAgent_metadata", `edge_agent_version="1.2.3"`, "0")
	expect(t, text, "edgeagent_direct_method_invocations_count", `{method_name="ping"}`, "1")
	if strings.Contains(text, "anything") {
		t.Error("names that callers make up become series")
	}
}

func TestTimesInStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(metrics.Labels{})
		cycle := func(good bool) {
			m.Observe(reconcile.Cycle{Modules: map[string]reconcile.Sample{"m": {WantedRunning: true, Correct: good}}})
		}
		cycle(true)
		time.Sleep(10 * time.Second)
		cycle(false)
		time.Sleep(5 * time.Second)
		cycle(true)
		text := scrape(t, m)
		expect(t, text, "edgeAgent_total_time_expected_running_seconds", `module_name="m"`, "15")
		expect(t, text, "edgeAgent_total_time_running_correctly_seconds", `module_name="m"`, "10")
		m.Observe(reconcile.Cycle{})
		if strings.Contains(scrape(t, m), `module_name="m"`) {
			t.Error("removed module keeps its series")
		}
	})
}

func TestServe(t *testing.T) {
	// At an address from which nobody connects, a port that was free remains so.
	id := os.Getpid()
	free, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+id>>16, id>>8&255, id&255))
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	m := metrics.New(metrics.Labels{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Serve(ctx, address, "/m", slog.New(slog.DiscardHandler)) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var res *http.Response
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		var err error
		if res, err = client.Get("http://" + address + "/m"); err == nil {
			break
		}
	}
	if res == nil {
		t.Fatal("not served")
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 200 || !strings.Contains(string(b), "edgeAgent_metadata") {
		t.Errorf("%d %v %s", res.StatusCode, err, b)
	}
	m.Serve(ctx, address, "/m", slog.New(slog.DiscardHandler)) // taken: returns, and the first goes on
	cancel()
	<-done
}

package metrics_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/metrics"
)

// page serves the metrics and reads a path.
func page(t *testing.T, m *metrics.Metrics, path string) (int, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	resp, err := http.Get("http://" + l.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestSeriesHaveTheWellKnownNamesAndLabels(t *testing.T) {
	m := metrics.New("hub.example", "edge")
	m.WatchQueues(func() []metrics.QueueLength {
		return []metrics.QueueLength{{Endpoint: "iothub", Priority: 2000000000, Messages: 7}}
	})
	m.Received("edge/m", "out")
	m.Sent("edge/m", metrics.Upstream, "out", "", 1)
	m.Dropped("no_route", "edge/m", "out")
	m.Unacked("edge/m", "out")
	m.TwinRead("edge_hub", "edge/m")
	m.Reported("upstream", "edge/m")
	m.Method("upstream", "edge/m")
	m.Retried("edge/m", "send")
	m.Offline("edge/$edgeHub")
	m.Refused("leaf")
	m.Connected("leaf", 1)
	m.Disconnected("leaf", 0)
	m.Size("leaf", 100)
	status, body := page(t, m, "/metrics")
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	for _, want := range []struct{ name, labels string }{
		{"edgehub_messages_received_total", `id="edge/m"|route_output="out"|ms_telemetry="True"`},
		{"edgehub_messages_sent_total", `from="edge/m"|to="upstream"|from_route_output="out"|to_route_input=""|priority="1"`},
		{"edgehub_messages_dropped_total", `reason="no_route"|from="edge/m"`},
		{"edgehub_messages_unack_total", `reason="storage_failure"|from="edge/m"`},
		{"edgehub_gettwin_total", `source="edge_hub"|id="edge/m"`},
		{"edgehub_reported_properties_total", `target="upstream"|id="edge/m"`},
		{"edgehub_direct_methods_total", `from="upstream"|to="edge/m"`},
		{"edgehub_operation_retry_total", `id="edge/m"|operation="send"`},
		{"edgehub_offline_count_total", `id="edge/$edgeHub"`},
		{"edgehub_client_connect_failed_total", `id="leaf"|reason="not_authenticated"`},
		{"edgehub_client_connect_success_total", `id="leaf"|ms_telemetry="False"`},
		{"edgehub_client_disconnect_total", `id="leaf"`},
		{"edgehub_queue_length", `endpoint="iothub"|priority="2000000000"|ms_telemetry="True"`},
		{"edgehub_connected_clients", `ms_telemetry="False"`},
		{"edgehub_message_size_bytes_count", `id="leaf"`},
	} {
		line := lineOf(body, want.name)
		for _, l := range append(strings.Split(want.labels, "|"), `iothub="hub.example"`, `edge_device="edge"`, `instance_number="`) {
			if !strings.Contains(line, l) {
				t.Errorf("%s has no %s: %s", want.name, l, line)
			}
		}
	}
	if line := lineOf(body, "edgehub_queue_length"); !strings.HasSuffix(line, " 7") {
		t.Errorf("queue length: %s", line)
	}
}

func lineOf(body, name string) string {
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, name+"{") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func TestOnlyMetricsAreServed(t *testing.T) {
	for _, path := range []string{"/", "/metrics/", "/debug/pprof/"} {
		if status, _ := page(t, metrics.New("hub", "edge"), path); status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, status)
		}
	}
}

package metrics_test

import (
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/metrics"
)

// page serves the metrics and reads a path.
func page(t *testing.T, m *metrics.Metrics, path string) (int, string) {
	t.Helper()
	return pageAt(t, m, "/metrics", path)
}

// pageAt serves the metrics at a path and reads another.
func pageAt(t *testing.T, m *metrics.Metrics, at, path string) (int, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l, at) }()
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

// series are the names of spec edgehub-core 17, with type and labels, "T" for those
// that are part of quality telemetry.
const series = `
edgehub_gettwin_total counter id,source T
edgehub_reported_properties_total counter id,target T
edgehub_messages_received_total counter id,route_output T
edgehub_messages_sent_total counter from,from_route_output,priority,to,to_route_input T
edgehub_messages_dropped_total counter from,from_route_output,reason T
edgehub_messages_unack_total counter from,from_route_output,reason T
edgehub_direct_methods_total counter from,to T
edgehub_operation_retry_total counter id,operation T
edgehub_client_connect_failed_total counter id,reason T
edgehub_client_connect_success_total counter id -
edgehub_client_disconnect_total counter id -
edgehub_offline_count_total counter id T
edgehub_queue_length gauge endpoint,priority T
edgehub_connected_clients gauge  -
edgehub_message_size_bytes summary id -
edgehub_gettwin_duration_seconds summary id,source -
edgehub_message_send_duration_seconds summary from,from_route_output,to,to_route_input -
edgehub_reported_properties_update_duration_seconds summary id,target -
edgehub_direct_method_duration_seconds summary from,to -
edgehub_message_process_duration_seconds summary from,priority,to T
edgehub_offline_duration_seconds summary id T
`

// busy is a hub that has counted everything once.
func busy() *metrics.Metrics {
	m := metrics.New("hub.example", "edge", 0)
	m.WatchQueues(func() []metrics.QueueLength {
		return []metrics.QueueLength{{Endpoint: "iothub", Priority: 2000000000, Messages: 7}}
	})
	m.Received("edge/m", "out")
	m.Sent("edge/m", metrics.Upstream, "out", "", 1, time.Second, 2*time.Second)
	m.Dropped("no_route", "edge/m", "out")
	m.Unacked("edge/m", "out")
	m.TwinRead("edge_hub", "edge/m", time.Second)
	m.Reported("upstream", "edge/m", time.Second)
	m.Method("upstream", "edge/m")
	m.MethodAnswered("upstream", "edge/m", time.Second)
	m.Retried("edge/m", "send")
	m.Offline("edge/$edgeHub")
	m.Online("edge/$edgeHub", time.Minute)
	m.Refused("leaf")
	m.Connected("leaf", 1)
	m.Disconnected("leaf", 0)
	m.Size("leaf", 100)
	return m
}

var (
	typeLine   = regexp.MustCompile(`^# TYPE (\S+) (\S+)`)
	seriesLine = regexp.MustCompile(`^(edgehub_\w+)\{(.*)\} `)
	label      = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

func TestSeriesHaveTheWellKnownNamesAndLabels(t *testing.T) {
	status, body := page(t, busy(), "/metrics")
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	kinds := map[string]string{}
	got := map[string]bool{}
	for line := range strings.Lines(body) {
		if m := typeLine.FindStringSubmatch(line); m != nil {
			kinds[m[1]] = m[2]
		}
		m := seriesLine.FindStringSubmatch(line)
		if m == nil || kinds[m[1]] == "" { // _sum and _count of summaries
			continue
		}
		telemetry := "-"
		var vars []string
		constant := map[string]string{}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			switch l[1] {
			case "iothub", "edge_device", "instance_number":
				constant[l[1]] = l[2]
			case "ms_telemetry":
				if l[2] == "True" {
					telemetry = "T"
				}
			case "quantile":
			default:
				vars = append(vars, l[1])
			}
		}
		if constant["iothub"] != "hub.example" || constant["edge_device"] != "edge" || constant["instance_number"] == "" {
			t.Errorf("constant labels of %s", line)
		}
		got[m[1]+" "+kinds[m[1]]+" "+strings.Join(vars, ",")+" "+telemetry] = true
	}
	want := map[string]bool{}
	for line := range strings.Lines(strings.TrimPrefix(series, "\n")) {
		want[strings.TrimRight(line, "\n")] = true
	}
	for line := range want {
		if !got[line] {
			t.Errorf("missing: %s", line)
		}
	}
	for line := range got {
		if !want[line] {
			t.Errorf("not specified: %s", line)
		}
	}
	for name, value := range map[string]string{
		"edgehub_queue_length": "7", "edgehub_message_process_duration_seconds_sum": "2", "edgehub_offline_duration_seconds_sum": "60",
		"edgehub_message_size_bytes_count": "1", "edgehub_messages_sent_total": "1",
	} {
		if line := lineOf(body, name); !strings.HasSuffix(line, " "+value) {
			t.Errorf("%s: %s, want %s", name, line, value)
		}
	}
}

func TestQuantiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New("hub", "edge", time.Hour)
		for i := range 10000 {
			m.Size("leaf", i+1)
		}
		m.Size("zero", 0)
		read := func() map[string]float64 {
			values := map[string]float64{}
			r := httptest.NewRecorder()
			m.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			for line := range strings.Lines(r.Body.String()) {
				if q := regexp.MustCompile(`id="leaf".*quantile="([^"]*)"\} (\S+)`).FindStringSubmatch(line); q != nil {
					values[q[1]], _ = strconv.ParseFloat(q[2], 64)
				}
			}
			return values
		}
		values := read()
		for q, want := range map[string]float64{"0.1": 1000, "0.5": 5000, "0.9": 9000, "0.95": 9500, "0.99": 9900, "0.999": 9990, "0.9999": 9999} {
			if got := values[q]; math.Abs(got-want) > 0.07*want {
				t.Errorf("quantile %s is %v, want about %v", q, got, want)
			}
		}
		if len(values) != 7 {
			t.Errorf("quantiles %v", values)
		}
		time.Sleep(31 * time.Minute)
		for range 100000 {
			m.Size("leaf", 10)
		}
		if got := read(); got["0.5"] > 11 || got["0.9999"] < 9000 {
			t.Errorf("after half of the age: %v", got)
		}
		time.Sleep(30 * time.Minute)
		if got := read(); got["0.9999"] > 11 {
			t.Errorf("after all of the age: %v", got)
		}
		time.Sleep(3 * time.Hour)
		if got := read(); !math.IsNaN(got["0.5"]) {
			t.Errorf("after long silence: %v", got)
		}
		m.Size("leaf", 20)
		if got := read(); got["0.5"] < 18 || got["0.5"] > 22 {
			t.Errorf("after the silence: %v", got)
		}
	})
}

func BenchmarkSent(b *testing.B) {
	m := metrics.New("hub", "edge", 0)
	b.ReportAllocs()
	for b.Loop() {
		m.Sent("edge/m", metrics.Upstream, "out", "", 2000000000, time.Millisecond, time.Second)
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

func TestMetricsAreServedWhereTheSettingsSay(t *testing.T) {
	for path, want := range map[string]int{"/a/b": http.StatusOK, "/metrics": http.StatusNotFound, "/a": http.StatusNotFound} {
		if status, _ := pageAt(t, metrics.New("hub", "edge", 0), "/a/b", path); status != want {
			t.Errorf("%s: status %d", path, status)
		}
	}
}

func TestOnlyMetricsAreServed(t *testing.T) {
	for _, path := range []string{"/", "/metrics/", "/debug/pprof/"} {
		if status, _ := page(t, metrics.New("hub", "edge", 0), path); status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, status)
		}
	}
}

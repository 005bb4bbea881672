// Package metrics holds edge hub's Prometheus metrics under the names and labels of
// the original, because dashboards know them (spec edgehub-core 17).
package metrics

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Upstream is the name of the cloud in labels.
const Upstream = "upstream"

// Metrics are the counters of one hub. All methods may be called concurrently.
type Metrics struct {
	registry *prometheus.Registry

	received, sent, dropped, unacked *prometheus.CounterVec
	getTwin, reported, methods       *prometheus.CounterVec
	retry, offline                   *prometheus.CounterVec
	connectFailed, connected         *prometheus.CounterVec
	disconnected                     *prometheus.CounterVec
	queueLength                      *prometheus.Desc
	clients                          prometheus.Gauge

	size, getTwinTook, sendTook, reportedTook *summaries
	methodTook, processTook, offlineTook      *summaries
}

// New returns metrics whose series carry the names of the hub and the device. The
// quantiles of summaries are of the last maxAge, or since half of that; 0 means 1 h.
func New(iothub, device string, maxAge time.Duration) *Metrics {
	if maxAge <= 0 {
		maxAge = time.Hour
	}
	m := &Metrics{registry: prometheus.NewRegistry()}
	labels := func(telemetry bool) prometheus.Labels {
		l := prometheus.Labels{"iothub": iothub, "edge_device": device, "ms_telemetry": "False"}
		if telemetry {
			l["ms_telemetry"] = "True"
		}
		return l
	}
	instance := rand.Text()
	counter := func(name, help string, telemetry bool, vars ...string) *prometheus.CounterVec {
		l := labels(telemetry)
		l["instance_number"] = instance
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "edgehub_" + name + "_total", Help: help, ConstLabels: l}, vars)
		m.registry.MustRegister(c)
		return c
	}
	m.received = counter("messages_received", "Messages received from a client", true, "id", "route_output")
	m.sent = counter("messages_sent", "Messages sent to a client or the cloud", true,
		"from", "to", "from_route_output", "to_route_input", "priority")
	m.dropped = counter("messages_dropped", "Messages dropped, by reason", true, "reason", "from", "from_route_output")
	m.unacked = counter("messages_unack", "Messages not acknowledged because they could not be stored", true,
		"reason", "from", "from_route_output")
	m.getTwin = counter("gettwin", "Twins read", true, "source", "id")
	m.reported = counter("reported_properties", "Reported-properties updates", true, "target", "id")
	m.methods = counter("direct_methods", "Direct methods passed on", true, "from", "to")
	m.retry = counter("operation_retry", "Operations tried again", true, "id", "operation")
	m.offline = counter("offline_count", "Times that the cloud was lost", true, "id")
	m.connectFailed = counter("client_connect_failed", "Clients refused", true, "id", "reason")
	m.connected = counter("client_connect_success", "Clients admitted", false, "id")
	m.disconnected = counter("client_disconnect", "Clients gone", false, "id")

	l := labels(true)
	l["instance_number"] = instance
	m.queueLength = prometheus.NewDesc("edgehub_queue_length", "Messages stored for an endpoint",
		[]string{"endpoint", "priority"}, l)
	plain := labels(false)
	plain["instance_number"] = instance
	m.clients = prometheus.NewGauge(prometheus.GaugeOpts{Name: "edgehub_connected_clients",
		Help: "Clients connected, without the hub itself", ConstLabels: plain})
	m.registry.MustRegister(m.clients)
	summary := func(name, help string, telemetry prometheus.Labels, vars ...string) *summaries {
		s := newSummaries(name, help, maxAge, telemetry, vars...)
		m.registry.MustRegister(s)
		return s
	}
	m.size = summary("message_size_bytes", "Size of the messages received", plain, "id")
	m.getTwinTook = summary("gettwin_duration_seconds", "Time to get a twin", plain, "source", "id")
	m.sendTook = summary("message_send_duration_seconds", "Time from sending a message to its settlement", plain,
		"from", "to", "from_route_output", "to_route_input")
	m.reportedTook = summary("reported_properties_update_duration_seconds", "Time to update reported properties", plain, "target", "id")
	m.methodTook = summary("direct_method_duration_seconds", "Time from passing a direct method on to its answer", plain, "from", "to")
	m.processTook = summary("message_process_duration_seconds", "Time from storing a message to its settlement", l, "from", "to", "priority")
	m.offlineTook = summary("offline_duration_seconds", "Time without the cloud", l, "id")
	return m
}

// Received counts a message from a client.
func (m *Metrics) Received(id, output string) { m.received.WithLabelValues(id, output).Inc() }

// Sent counts a message that an endpoint has taken: so long after it was sent there,
// and so long after it was stored.
func (m *Metrics) Sent(from, to, output, input string, priority uint32, took, process time.Duration) {
	p := strconv.FormatUint(uint64(priority), 10)
	m.sent.WithLabelValues(from, to, output, input, p).Inc()
	m.sendTook.seconds(took, from, to, output, input)
	m.processTook.seconds(process, from, to, p)
}

// Dropped counts a message that will not be delivered: no_route, ttl_expiry or
// another reason.
func (m *Metrics) Dropped(reason, from, output string) {
	m.dropped.WithLabelValues(reason, from, output).Inc()
}

// Unacked counts a message that could not be stored.
func (m *Metrics) Unacked(from, output string) {
	m.unacked.WithLabelValues("storage_failure", from, output).Inc()
}

// TwinRead counts a twin given to a client, and how long it took to get it.
func (m *Metrics) TwinRead(source, id string, took time.Duration) {
	m.getTwin.WithLabelValues(source, id).Inc()
	m.getTwinTook.seconds(took, source, id)
}

// Reported counts an update of reported properties, from a client or to the cloud.
func (m *Metrics) Reported(target, id string, took time.Duration) {
	m.reported.WithLabelValues(target, id).Inc()
	m.reportedTook.seconds(took, target, id)
}

// Method counts a direct method passed on.
func (m *Metrics) Method(from, to string) { m.methods.WithLabelValues(from, to).Inc() }

// MethodAnswered notes how long the answer to a direct method took.
func (m *Metrics) MethodAnswered(from, to string, took time.Duration) {
	m.methodTook.seconds(took, from, to)
}

// Retried counts an operation that is tried again.
func (m *Metrics) Retried(id, operation string) { m.retry.WithLabelValues(id, operation).Inc() }

// Offline counts a loss of the cloud.
func (m *Metrics) Offline(id string) { m.offline.WithLabelValues(id).Inc() }

// Online notes how long the cloud was lost.
func (m *Metrics) Online(id string, after time.Duration) { m.offlineTook.seconds(after, id) }

// Refused counts a client that was not admitted.
func (m *Metrics) Refused(id string) { m.connectFailed.WithLabelValues(id, "not_authenticated").Inc() }

// Connected counts an admitted client; n is the number now.
func (m *Metrics) Connected(id string, n int) {
	m.connected.WithLabelValues(id).Inc()
	m.clients.Set(float64(n))
}

// Disconnected counts a client that has gone; n is the number now.
func (m *Metrics) Disconnected(id string, n int) {
	m.disconnected.WithLabelValues(id).Inc()
	m.clients.Set(float64(n))
}

// QueueLength is how many messages wait in one queue.
type QueueLength struct {
	Endpoint string
	Priority uint32
	Messages int
}

// WatchQueues makes the page show the lengths of the queues as they are when it is
// read. It may be called once.
func (m *Metrics) WatchQueues(lengths func() []QueueLength) {
	m.registry.MustRegister(queues{desc: m.queueLength, lengths: lengths})
}

// queues is a collector that asks.
type queues struct {
	desc    *prometheus.Desc
	lengths func() []QueueLength
}

// Describe names the series.
func (q queues) Describe(c chan<- *prometheus.Desc) { c <- q.desc }

// Collect reads the lengths.
func (q queues) Collect(c chan<- prometheus.Metric) {
	for _, l := range q.lengths() {
		c <- prometheus.MustNewConstMetric(q.desc, prometheus.GaugeValue, float64(l.Messages), l.Endpoint, fmt.Sprint(l.Priority))
	}
}

// Size notes the size of a message.
func (m *Metrics) Size(id string, bytes int) { m.size.observe(float64(bytes), id) }

// Handler serves the page of metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Serve serves GET path, and nothing else, on the listener until ctx ends.
func (m *Metrics) Serve(ctx context.Context, l net.Listener, path string) error {
	page := m.Handler()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != path:
			http.NotFound(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "use GET", http.StatusMethodNotAllowed)
		default:
			page.ServeHTTP(w, r)
		}
	})
	s := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics listener: %w", err)
	}
	return nil
}

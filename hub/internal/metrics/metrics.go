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
	size                             *prometheus.SummaryVec
}

// New returns metrics whose series carry the names of the hub and the device.
func New(iothub, device string) *Metrics {
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
	m.size = prometheus.NewSummaryVec(prometheus.SummaryOpts{Name: "edgehub_message_size_bytes",
		Help: "Size of the messages received", ConstLabels: plain, MaxAge: time.Hour,
		Objectives: map[float64]float64{0.5: 0.05, 0.9: 0.01, 0.99: 0.001}}, []string{"id"})
	m.registry.MustRegister(m.clients, m.size)
	return m
}

// Received counts a message from a client.
func (m *Metrics) Received(id, output string) { m.received.WithLabelValues(id, output).Inc() }

// Sent counts a message that an endpoint has taken.
func (m *Metrics) Sent(from, to, output, input string, priority uint32) {
	m.sent.WithLabelValues(from, to, output, input, fmt.Sprint(priority)).Inc()
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

// TwinRead counts a twin given to a client.
func (m *Metrics) TwinRead(source, id string) { m.getTwin.WithLabelValues(source, id).Inc() }

// Reported counts an update of reported properties, from a client or to the cloud.
func (m *Metrics) Reported(target, id string) { m.reported.WithLabelValues(target, id).Inc() }

// Method counts a direct method passed on.
func (m *Metrics) Method(from, to string) { m.methods.WithLabelValues(from, to).Inc() }

// Retried counts an operation that is tried again.
func (m *Metrics) Retried(id, operation string) { m.retry.WithLabelValues(id, operation).Inc() }

// Offline counts a loss of the cloud.
func (m *Metrics) Offline(id string) { m.offline.WithLabelValues(id).Inc() }

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
func (m *Metrics) Size(id string, bytes int) { m.size.WithLabelValues(id).Observe(float64(bytes)) }

// Handler serves the page of metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Serve serves GET /metrics, and nothing else, on the listener until ctx ends.
func (m *Metrics) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics listener: %w", err)
	}
	return nil
}

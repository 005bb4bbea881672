// Package metrics counts and serves what the agent does, under the names that
// dashboards for the original know (spec edgeagent 10). Decorators count at the
// borders of the reconcile loop; the loop itself knows nothing of them.
// Figures of the host and of containers are measured by the daemon (Watch).
package metrics

import (
	"crypto/rand"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-iot/breakwater/agent/internal/reconcile"
)

// Labels identify the device in every series.
type Labels struct {
	Hub, Device, Version string
	Host                 string        // description of the machine
	Features             string        // experimental features that are on
	MaxAge               time.Duration // window of summaries; 0: an hour
}

// factory makes the options of a metric.
type factory struct {
	labels Labels
	yes    prometheus.Labels // of metrics that quality telemetry may hold
	no     prometheus.Labels // of others
}

func newFactory(l Labels) factory {
	if l.MaxAge == 0 {
		l.MaxAge = time.Hour
	}
	f := factory{labels: l, yes: prometheus.Labels{
		"iothub": l.Hub, "edge_device": l.Device, "instance_number": instance(), "ms_telemetry": "True",
	}}
	f.no = maps.Clone(f.yes)
	f.no["ms_telemetry"] = "False"
	return f
}

func (f factory) counter(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Name: prefix + name, Help: help, ConstLabels: f.yes}
}

func (f factory) gauge(name, help string, telemetry bool) prometheus.GaugeOpts {
	o := prometheus.GaugeOpts{Name: prefix + name, Help: help, ConstLabels: f.no}
	if telemetry {
		o.ConstLabels = f.yes
	}
	return o
}

func (f factory) summary(name, help string) prometheus.SummaryOpts {
	return prometheus.SummaryOpts{Name: prefix + name, Help: help, ConstLabels: f.yes, Objectives: quantiles, MaxAge: f.labels.MaxAge}
}

const prefix = "edgeAgent_"

// Metrics holds the counters of one process. It may be used from many goroutines.
type Metrics struct {
	registry   *prometheus.Registry
	latency    *prometheus.SummaryVec
	started    *prometheus.CounterVec
	stopped    *prometheus.CounterVec
	prepared   *prometheus.CounterVec
	syncs      prometheus.Counter
	failed     prometheus.Counter
	deployment prometheus.Summary
	methods    *prometheus.CounterVec
	correct    *prometheus.GaugeVec
	expected   *prometheus.GaugeVec
	system     *system

	mu     sync.Mutex // guards what follows
	last   time.Time  // of Observe
	before map[string]reconcile.Sample
}

var quantiles = map[float64]float64{0.1: 0.01, 0.5: 0.05, 0.9: 0.01, 0.99: 0.001}

// New returns counters at zero.
func New(l Labels) *Metrics {
	f := newFactory(l)
	module := []string{"module_name", "module_version"}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		latency:  prometheus.NewSummaryVec(f.summary("command_latency_seconds", "How long commands to the daemon took."), []string{"command"}),
		started:  prometheus.NewCounterVec(f.counter("module_start_total", "Starts of a module."), module),
		stopped:  prometheus.NewCounterVec(f.counter("module_stop_total", "Stops of a module."), module),
		prepared: prometheus.NewCounterVec(f.counter("module_prepare_update_total", "Pulls of a module's image."), module),
		syncs:    prometheus.NewCounter(f.counter("iothub_syncs_total", "Reads of the twin and reports.")),
		failed:   prometheus.NewCounter(f.counter("unsuccessful_iothub_syncs_total", "Reads of the twin and reports that failed.")),
		deployment: prometheus.NewSummary(f.summary("deployment_time_seconds",
			"How long plans took that were not empty.")),
		correct:  prometheus.NewGaugeVec(f.gauge("total_time_running_correctly_seconds", "Time in the wanted state.", true), module[:1]),
		expected: prometheus.NewGaugeVec(f.gauge("total_time_expected_running_seconds", "Time in which the module was wanted running.", true), module[:1]),
		// This name, without prefix, suffix and labels, is the original's.
		methods: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edgeagent_direct_method_invocations_count", Help: "Direct methods that were called.",
		}, []string{"method_name"}),
	}
	m.system = newSystem(f)
	meta := f.gauge("metadata", "Version of the agent, and the machine that it runs on.", true)
	meta.ConstLabels = maps.Clone(meta.ConstLabels)
	maps.Copy(meta.ConstLabels, prometheus.Labels{
		"edge_agent_version": l.Version, "experimental_features": l.Features, "host_information": l.Host,
	})
	m.registry.MustRegister(append(m.system.collectors(), m.latency, m.started, m.stopped, m.prepared, m.syncs, m.failed,
		m.deployment, m.methods, m.correct, m.expected, prometheus.NewGauge(meta))...)
	return m
}

// instance is a random GUID, new with each start of the agent.
func instance() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Observe takes the outcome of a cycle. The time since the last one counts as
// spent in the states that were seen then.
func (m *Metrics) Observe(c reconcile.Cycle) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if c.Worked > 0 {
		m.deployment.Observe(c.Worked.Seconds())
	}
	passed := now.Sub(m.last).Seconds()
	for name, was := range m.before {
		if _, still := c.Modules[name]; !still {
			m.correct.DeleteLabelValues(name)
			m.expected.DeleteLabelValues(name)
			continue
		}
		if was.WantedRunning {
			m.expected.WithLabelValues(name).Add(passed)
		}
		if was.Correct {
			m.correct.WithLabelValues(name).Add(passed)
		}
	}
	m.last, m.before = now, c.Modules
}

// version is the module's version as it was last seen.
func (m *Metrics) version(module string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.before[module].Version
}

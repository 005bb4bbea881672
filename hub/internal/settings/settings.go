// Package settings reads edge hub's settings from environment variables under the
// names of the original, which are not case-sensitive and use "__" between levels
// (spec edgehub-core 16).
package settings

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// Edge are the settings of edge hub.
type Edge struct {
	// Set by edgeAgent.
	DeviceID, ModuleID, GenerationID string
	HubName                          string // IOTEDGE_IOTHUBHOSTNAME
	GatewayName                      string // EdgeDeviceHostName
	ParentName                       string // IOTEDGE_GATEWAYHOSTNAME; nested only
	WorkloadURI                      string

	StorageFolder     string
	LogLevel          slog.Level
	Upstream          client.Protocol // to the cloud
	UpstreamFallback  bool            // to WebSockets, because nobody has chosen
	HTTPSProxy        string          // URL of a proxy, perhaps with a password; empty: none
	NoProxy           string          // what not to use it for
	MQTTEnabled       bool
	AMQPEnabled       bool
	AMQPPort          int
	HTTPEnabled       bool
	HTTPPort          int
	ClientCerts       bool   // clients may log in with certificates
	AuthMode          string // "Scope", "Cloud" or "CloudAndScope"
	ProxyModule       string // that may pass on certificates of its clients
	MetricsEnabled    bool
	MetricsHost       string // that the plain listener is bound to; empty: all
	MetricsPort       int
	MetricsPath       string        // of the plain listener
	MetricsMaxAge     time.Duration // of what quantiles are made of
	MaxClients        int
	AckTimeout        time.Duration
	IdleTimeout       time.Duration // of cloud connections; 0: never
	Hanging           time.Duration // that cloud connections may be without an answer
	CallTimeout       time.Duration // of one call to the cloud
	Connections       int           // over AMQP to the cloud, shared by all identities
	KeepConnections   bool          // to the cloud, of clients that have left
	LocalSubscribing  bool          // clients hear nothing from the cloud
	KeepForUnknown    bool          // messages of those who may not log in wait until they expire
	LocalConfig       []byte        // desired properties in place of those of the twin; nil: none
	Connectivity      time.Duration // that the own cloud connection may be silent; negative: not tried
	ConfigRefresh     time.Duration
	MinTLS            uint16 // the oldest version of TLS that clients may use
	ScopeRefresh      time.Duration
	ScopeRefreshDelay time.Duration
	TwinPush          time.Duration
	TwinSync          time.Duration
	EncryptTwins      bool
	QueueMaxBytes     int64         // of all queues on disk; 0: no limit but the disk
	QueueMaxAge       time.Duration // that a message may wait; 0: as its route says
	QueueDropOldest   bool          // when full; else new messages are refused
	QueueLiveFirst    bool          // new messages pass a backlog; else all is in order
	ShutdownWait      time.Duration
}

// FromEnvironment reads the settings. environ has the form of os.Environ. All that
// is wrong is in the error, by variable.
func FromEnvironment(environ []string) (Edge, error) {
	r := reader{values: make(map[string]string, len(environ))}
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			r.values[strings.ToLower(name)] = value
		}
	}
	s := Edge{
		DeviceID:     r.required("IOTEDGE_DEVICEID"),
		ModuleID:     r.required("IOTEDGE_MODULEID"),
		GenerationID: r.required("IOTEDGE_MODULEGENERATIONID"),
		HubName:      r.required("IOTEDGE_IOTHUBHOSTNAME"),
		GatewayName:  r.required("EdgeDeviceHostName"),
		ParentName:   r.text("IOTEDGE_GATEWAYHOSTNAME", ""),
		WorkloadURI:  r.required("IOTEDGE_WORKLOADURI"),

		StorageFolder:     r.text("StorageFolder", "/tmp"),
		LogLevel:          r.level("RuntimeLogLevel"),
		Upstream:          r.protocol("UpstreamProtocol", client.AMQP),
		UpstreamFallback:  r.text("UpstreamProtocol", "") == "",
		HTTPSProxy:        r.text("https_proxy", ""),
		NoProxy:           r.text("no_proxy", ""),
		MQTTEnabled:       r.boolean("MqttSettings__Enabled"),
		AMQPEnabled:       r.boolean("AmqpSettings__Enabled"),
		AMQPPort:          r.number("AmqpSettings__Port", 5671, 1, 65535),
		HTTPEnabled:       r.boolean("HttpSettings__Enabled"),
		HTTPPort:          r.number("HttpSettings__Port", 443, 1, 65535),
		ClientCerts:       r.boolean("ClientCertAuthEnabled"),
		AuthMode:          r.choice("AuthenticationMode", "Scope", "Cloud", "CloudAndScope"),
		ProxyModule:       r.text("ApiProxyModuleId", "IoTEdgeAPIProxy"),
		MetricsEnabled:    r.boolean("Metrics__Listener__MetricsEnabled"),
		MetricsHost:       strings.Trim(r.text("Metrics__Listener__Host", "*"), "*+"),
		MetricsPath:       "/" + strings.Trim(r.text("Metrics__Listener__Suffix", "metrics"), "/"),
		MetricsMaxAge:     r.span("Metrics__Listener__MetricsHistogramMaxAge", time.Hour),
		MaxClients:        r.number("MaxConnectedClients", 100, 1, 1_000_000),
		AckTimeout:        r.seconds("MessageAckTimeoutSecs", 30, 1),
		IdleTimeout:       r.seconds("CloudConnectionIdleTimeoutSecs", 3600, 1),
		Hanging:           r.seconds("CloudConnectionHangingTimeoutSecs", 50, 1),
		CallTimeout:       r.seconds("CloudOperationTimeoutSecs", 20, 1),
		Connections:       max(r.number("IotHubConnectionPoolSize", 1, 0, 100), 1),
		KeepConnections:   !r.boolean("CloseCloudConnectionOnDeviceDisconnect"),
		KeepForUnknown:    !r.boolean("TrackDeviceState"),
		Connectivity:      r.seconds("ConnectivityCheckFrequencySecs", 300, 1),
		ConfigRefresh:     r.seconds("ConfigRefreshFrequencySecs", 3600, 1),
		MinTLS:            r.tls("SslProtocols"),
		ScopeRefresh:      r.seconds("DeviceScopeCacheRefreshRateSecs", 3600, 1),
		ScopeRefreshDelay: r.seconds("DeviceScopeCacheRefreshDelaySecs", 120, 0),
		TwinPush:          r.seconds("ReportedPropertiesSyncFrequencySecs", 5, 1),
		TwinSync:          r.seconds("MinTwinSyncPeriodSecs", 120, 0),
		EncryptTwins:      r.boolean("EncryptTwinStore"),
		QueueMaxBytes:     int64(r.number("QueueMaxBytes", 0, 0, math.MaxInt)),
		QueueMaxAge:       r.seconds("QueueMaxAgeSecs", 0, 0),
		QueueDropOldest:   r.choice("QueueWhenFull", "refuse", "dropOldest") == "dropOldest",
		QueueLiveFirst:    r.choice("QueueDrain", "in-order", "live-first") == "live-first",
		ShutdownWait:      r.seconds("ShutdownWaitPeriod", 60, 1),
	}
	port := r.number("httpSettings__metrics_port", 9600, 1, 65535)
	s.MetricsPort = r.number("Metrics__Listener__Port", port, 1, 65535)
	if !r.boolean("CloseCloudConnectionOnIdleTimeout") {
		s.IdleTimeout = 0
	}
	if r.experiment("disableConnectivityCheck") {
		s.Connectivity = -1
	}
	s.LocalSubscribing = r.experiment("disableCloudSubscriptions")
	if r.choice("ConfigSource", "twin", "local") == "local" {
		s.LocalConfig = localConfig(environ)
	}
	return s, errors.Join(r.errs...)
}

type reader struct {
	values map[string]string
	errs   []error
}

func (r *reader) text(name, fallback string) string {
	if v := strings.TrimSpace(r.values[strings.ToLower(name)]); v != "" {
		return v
	}
	return fallback
}

func (r *reader) required(name string) string {
	v := r.text(name, "")
	if v == "" {
		r.errs = append(r.errs, fmt.Errorf("environment variable %s is not set", name))
	}
	return v
}

func (r *reader) number(name string, fallback, low, high int) int {
	v := r.text(name, "")
	if v == "" {
		return fallback
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		r.errs = append(r.errs, fmt.Errorf("environment variable %s is %q: want a number from %d to %d", name, v, low, high))
		return fallback
	}
	return n
}

func (r *reader) seconds(name string, fallback, low int) time.Duration {
	const tenYears = 10 * 365 * 24 * 3600
	return time.Duration(r.number(name, fallback, low, tenYears)) * time.Second
}

// span is a time span of .NET, [d.]hh:mm[:ss], from a second to ten days.
func (r *reader) span(name string, fallback time.Duration) time.Duration {
	v := r.text(name, "")
	if v == "" {
		return fallback
	}
	days, clock, found := strings.Cut(v, ".")
	if !found {
		days, clock = "0", v
	}
	parts := append([]string{days}, strings.Split(clock, ":")...)
	if len(parts) == 3 {
		parts = append(parts, "0")
	}
	units := []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second}
	limits := []int{10, 23, 59, 59}
	d := time.Duration(0)
	for i, unit := range units {
		n := -1
		if len(parts) == len(units) {
			if x, err := strconv.Atoi(parts[i]); err == nil && x <= limits[i] {
				n = x
			}
		}
		if n < 0 {
			d = 0
			break
		}
		d += time.Duration(n) * unit
	}
	if d < time.Second {
		r.errs = append(r.errs, fmt.Errorf("environment variable %s is %q: want a time span such as 01:00:00", name, v))
		return fallback
	}
	return d
}

// boolean is true unless the variable says otherwise: all switches are on by default.
func (r *reader) boolean(name string) bool {
	v := r.text(name, "")
	if v == "" {
		return true
	}
	b, err := strconv.ParseBool(strings.ToLower(v))
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("environment variable %s is %q: want true or false", name, v))
	}
	return b
}

// experiment is false unless experimental features are on, and this one too.
func (r *reader) experiment(name string) bool {
	const group = "experimentalFeatures__"
	return r.text(group+"enabled", "") != "" && r.boolean(group+"enabled") && r.text(group+name, "") != "" && r.boolean(group+name)
}

// tls is the oldest of a list of versions such as "tls1.2,tls1.3". Those that are
// not safe any more are not served, whatever the list says, unless it names no
// others: then it is an error.
func (r *reader) tls(name string) uint16 {
	oldest := uint16(0)
	v := r.text(name, "tls1.2,tls1.3")
	for _, word := range strings.Split(v, ",") {
		switch strings.ToLower(strings.TrimSpace(word)) {
		case "tls1.2", "tls12":
			return tls.VersionTLS12
		case "tls1.3", "tls13":
			oldest = tls.VersionTLS13
		case "tls", "tls1.0", "tls10", "tls1.1", "tls11":
		default:
			r.errs = append(r.errs, fmt.Errorf("environment variable %s is %q: %q is no version of TLS", name, v, word))
			return tls.VersionTLS12
		}
	}
	if oldest == 0 {
		r.errs = append(r.errs, fmt.Errorf("environment variable %s is %q: want tls1.2 or tls1.3", name, v))
		return tls.VersionTLS12
	}
	return oldest
}

// choice is one of the words, in any case; the first is the default.
func (r *reader) choice(name string, words ...string) string {
	v := r.text(name, words[0])
	for _, w := range words {
		if strings.EqualFold(v, w) {
			return w
		}
	}
	r.errs = append(r.errs, fmt.Errorf("environment variable %s is %q: want %s", name, v, strings.Join(words, " or ")))
	return words[0]
}

func (r *reader) protocol(name string, fallback client.Protocol) client.Protocol {
	p, err := client.ParseProtocol(r.text(name, fallback.String()))
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("environment variable %s: %w", name, err))
	}
	return p
}

func (r *reader) level(name string) slog.Level {
	switch v := strings.ToLower(r.text(name, "info")); v {
	case "fatal", "error":
		return slog.LevelError
	case "warning", "warn":
		return slog.LevelWarn
	case "info":
		return slog.LevelInfo
	case "debug", "verbose":
		return slog.LevelDebug
	default:
		r.errs = append(r.errs, fmt.Errorf("environment variable %s is %q: want fatal, error, warning, info, debug or verbose", name, v))
		return slog.LevelInfo
	}
}

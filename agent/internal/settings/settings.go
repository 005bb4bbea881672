// Package settings reads the agent's environment into one value (spec edgeagent
// 12). Names match in any letter case; variables that are not the agent's are
// ignored. A setting that asks for something this agent cannot do gives a warning
// when the agent works without it, and an error when it does not.
package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/proto/proxy"
)

// Settings is what the environment says, defaults filled in.
type Settings struct {
	Host       launch.Host
	ModuleID   string // of the agent in the cloud
	Generation string

	StorageFolder string // for this agent alone
	BackupFile    string // empty: in StorageFolder
	Volatile      bool

	LocalConfig       string // file with the deployment in place of the twin; empty: the twin
	Policy            plan.Policy
	Refresh           time.Duration // of the twin
	PullsFirst        bool
	DeleteOrphans     bool
	HideCredentials   bool
	ManagementTimeout time.Duration
	SlotTimeout       time.Duration // negative: no limit
	RequestTimeout    time.Duration // of direct methods
	LevelAtMost       bool
	NoAnalytics       bool // product information without host details
	NoSubscriptions   bool
	Features          string // experimental features that are on, as JSON
	LogLevel          slog.Level
	Metrics           Metrics
	Quality           Quality
	Network           *proxy.Dialer // of https_proxy and no_proxy
	UserID            int           // to run as; 0: as the container's user
	Warnings          []string
}

// Metrics says where metrics are served.
type Metrics struct {
	Enabled bool
	Address string // host:port to listen on
	Path    string
	MaxAge  time.Duration // window of summaries
	Update  time.Duration // of the figures of the host
}

// Quality says whether and how quality telemetry is sent.
type Quality struct {
	Enabled        bool // the original sends unless it is told not to; ours sends when it is told to
	Scrape, Upload time.Duration
	MaxAge         time.Duration
}

// Parse reads an environment in the form of os.Environ.
func Parse(environ []string) (Settings, error) {
	r := newReader(environ)
	s := Settings{
		ModuleID:   r.need("IOTEDGE_MODULEID"),
		Generation: r.need("IOTEDGE_MODULEGENERATIONID"),
		Host: launch.Host{
			HubName:       r.need("IOTEDGE_IOTHUBHOSTNAME"),
			DeviceID:      r.need("IOTEDGE_DEVICEID"),
			Parent:        r.text("IOTEDGE_GATEWAYHOSTNAME", ""),
			HostName:      r.text("EdgeDeviceHostName", ""),
			WorkloadURI:   r.need("IOTEDGE_WORKLOADURI"),
			ManagementURI: r.need("IOTEDGE_MANAGEMENTURI"),
			SocketsURI:    r.text("IOTEDGE_WORKLOADLISTEN_MNTURI", ""),
			APIVersion:    r.text("IOTEDGE_APIVERSION", "2022-08-03"),
			NetworkID:     r.text("NetworkId", ""),
			LogLevel:      r.text("RuntimeLogLevel", "info"),
			Upstream:      r.text("UpstreamProtocol", ""),
		},
		StorageFolder:     filepath.Join(r.text("StorageFolder", os.TempDir()), manifest.AgentName),
		BackupFile:        r.text("BackupConfigFilePath", ""),
		Volatile:          !r.flag("UsePersistentStorage", true),
		LocalConfig:       r.localConfig(),
		Policy:            r.policy(),
		Refresh:           r.seconds("ConfigRefreshFrequencySecs", 3600, 1),
		DeleteOrphans:     r.flag("EnableOrphanedIdentityCleanup", false),
		HideCredentials:   r.flag("HideRegistryCredentials", false),
		ManagementTimeout: r.seconds("ManagementApiTimeoutSecs", 300, 1),
		SlotTimeout:       r.seconds("ModuleRequestThrottleTimeout", 240, -1),
		RequestTimeout:    r.seconds("RequestTimeoutSecs", 600, 1),
		LevelAtMost:       r.choice("LogFilterLevelMode", "equal", "atMost"),
		PullsFirst:        r.choice("ModuleUpdateMode", "NonBlocking", "WaitForAllPulls"),
		NoAnalytics:       r.flag("DisableDeviceAnalyticsMetadata", false),
		UserID:            r.number("EDGEAGENTUSER_ID", 0, 0, 1<<31-1),
		NoSubscriptions: r.flag("experimentalFeatures__enabled", false) &&
			r.flag("experimentalFeatures__disableCloudSubscriptions", false),
	}
	s.Features = fmt.Sprintf(`{"Enabled":%v,"DisableCloudSubscriptions":%v}`,
		r.flag("experimentalFeatures__enabled", false), s.NoSubscriptions)
	s.LogLevel = r.level()
	s.Metrics = r.metrics()
	s.Quality = Quality{
		Enabled: r.flag("SendRuntimeQualityTelemetry", false),
		Scrape:  r.span("MetricScrapeInterval", time.Hour, time.Minute),
		Upload:  r.span("MetricUploadInterval", 24*time.Hour, time.Minute),
		MaxAge:  r.span("MetricMaxUploadAge", 7*24*time.Hour, time.Minute),
	}
	s.Host.Registries = r.registries(s.Host.Parent)
	s.Network = r.network()
	r.refuse()
	s.Warnings = r.warnings
	if err := errors.Join(r.errs...); err != nil {
		return Settings{}, fmt.Errorf("environment: %w", err)
	}
	return s, nil
}

// reader looks variables up and collects what is wrong with them.
type reader struct {
	values   map[string]string // by lower-case name
	errs     []error
	warnings []string
}

func newReader(environ []string) *reader {
	r := &reader{values: map[string]string{}}
	for _, kv := range environ {
		k, v, ok := strings.Cut(kv, "=")
		if ok && k != "" {
			r.values[strings.ToLower(k)] = v
		}
	}
	return r
}

func (r *reader) text(name, def string) string {
	if v := strings.TrimSpace(r.values[strings.ToLower(name)]); v != "" {
		return v
	}
	return def
}

func (r *reader) fail(name, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
}

func (r *reader) need(name string) string {
	v := r.text(name, "")
	if v == "" {
		r.fail(name, "is not set")
	}
	return v
}

func (r *reader) flag(name string, def bool) bool {
	v := r.text(name, strconv.FormatBool(def))
	b, err := strconv.ParseBool(strings.ToLower(v))
	if err != nil {
		r.fail(name, "must be true or false, not %q", v)
	}
	return b
}

func (r *reader) number(name string, def, low, high int) int {
	v := r.text(name, strconv.Itoa(def))
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		r.fail(name, "must be an integer from %d to %d, not %q", low, high, v)
	}
	return n
}

const maxSeconds = 10 * 365 * 24 * 3600

func (r *reader) seconds(name string, def, low int) time.Duration {
	return time.Duration(r.number(name, def, low, maxSeconds)) * time.Second
}

// choice tells whether the second of two words is set; the first is the default.
func (r *reader) choice(name, first, second string) bool {
	switch v := r.text(name, first); {
	case strings.EqualFold(v, second):
		return true
	case !strings.EqualFold(v, first):
		r.fail(name, "must be %s or %s, not %q", first, second, v)
	}
	return false
}

func (r *reader) policy() plan.Policy {
	p := plan.DefaultPolicy()
	p.Unit = time.Duration(r.number("CoolOffTimeUnitInSeconds", 10, 0, 300)) * time.Second
	p.MaxRestarts = r.number("MaxRestartCount", p.MaxRestarts, 0, 1<<30)
	p.IntensiveCare = time.Duration(r.number("IntensiveCareTimeInMinutes", 10, 0, maxSeconds/60)) * time.Minute
	return p
}

func (r *reader) level() slog.Level {
	switch v := strings.ToLower(r.text("RuntimeLogLevel", "info")); v {
	case "fatal", "error":
		return slog.LevelError
	case "warning":
		return slog.LevelWarn
	case "info":
		return slog.LevelInfo
	case "debug", "verbose":
		return slog.LevelDebug
	default:
		r.warnings = append(r.warnings, fmt.Sprintf("RuntimeLogLevel %q is unknown: info is used", v))
	}
	return slog.LevelInfo
}

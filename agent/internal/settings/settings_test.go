package settings_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/settings"
)

var base = []string{
	"IOTEDGE_MODULEID=$edgeAgent", "IOTEDGE_MODULEGENERATIONID=g", "IOTEDGE_IOTHUBHOSTNAME=hub", "IOTEDGE_DEVICEID=dev",
	"IOTEDGE_WORKLOADURI=unix:///w", "IOTEDGE_MANAGEMENTURI=unix:///m", "PATH=/bin", "Unrelated=x",
}

func TestDefaults(t *testing.T) {
	s, err := settings.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	if s.Refresh != time.Hour || s.ManagementTimeout != 300*time.Second || s.SlotTimeout != 240*time.Second || s.RequestTimeout != 600*time.Second ||
		s.Policy.Unit != 10*time.Second || s.Policy.MaxRestarts != 20 || s.Policy.IntensiveCare != 10*time.Minute {
		t.Errorf("%+v", s)
	}
	if s.Volatile || s.PullsFirst || s.DeleteOrphans || s.HideCredentials || s.LevelAtMost || s.NoSubscriptions || s.LogLevel != slog.LevelInfo || len(s.Warnings) != 0 {
		t.Errorf("%+v", s)
	}
	if s.Quality != (settings.Quality{Scrape: time.Hour, Upload: 24 * time.Hour, MaxAge: 7 * 24 * time.Hour}) {
		t.Errorf("%+v", s.Quality)
	}
	if filepath.Base(s.StorageFolder) != "edgeAgent" || s.Host.APIVersion != "2022-08-03" || s.Host.LogLevel != "info" {
		t.Errorf("%+v", s)
	}
	if s.Metrics != (settings.Metrics{Enabled: true, Address: ":9600", Path: "/metrics", MaxAge: time.Hour, Update: 5 * time.Minute}) {
		t.Errorf("%+v", s.Metrics)
	}
}

func TestValues(t *testing.T) {
	s, err := settings.Parse(append([]string{
		"storagefolder=/data", "BACKUPCONFIGFILEPATH=/b/x.json", "UsePersistentStorage=False", "CoolOffTimeUnitInSeconds=0", "MaxRestartCount=3",
		"IntensiveCareTimeInMinutes=1", "ConfigRefreshFrequencySecs=60", "ModuleUpdateMode=waitforallpulls", "ModuleRequestThrottleTimeout=-1",
		"RuntimeLogLevel=Verbose", "LogFilterLevelMode=atMost", "Metrics__Listener__port=9700", "Metrics__Listener__suffix=/m/",
		"experimentalFeatures__enabled=true", "experimentalFeatures__disableCloudSubscriptions=true",
		"DockerRegistryAuth__0__serverAddress=$upstream:443", "dockerregistryauth__0__USERNAME=u", "DockerRegistryAuth__0__password=hush",
		"IOTEDGE_GATEWAYHOSTNAME=parent", "sendruntimequalitytelemetry=TRUE", "MetricScrapeInterval=00:10:00",
	}, base...))
	if err != nil {
		t.Fatal(err)
	}
	if s.StorageFolder != "/data/edgeAgent" || s.BackupFile != "/b/x.json" || !s.Volatile || s.Policy.Unit != 0 || s.Policy.MaxRestarts != 3 ||
		s.Policy.IntensiveCare != time.Minute || s.Refresh != time.Minute || !s.PullsFirst || s.SlotTimeout >= 0 ||
		s.LogLevel != slog.LevelDebug || !s.LevelAtMost || s.Metrics.Address != ":9700" || s.Metrics.Path != "/m" || !s.NoSubscriptions {
		t.Errorf("%+v", s)
	}
	if !s.Quality.Enabled || s.Quality.Scrape != 10*time.Minute {
		t.Errorf("%+v", s.Quality)
	}
	if r := s.Host.Registries; len(r) != 1 || r[0].Address != "parent:443" || r[0].Username != "u" || string(r[0].Password) != "hush" {
		t.Errorf("registries %v", r)
	}
	if text := fmt.Sprintf("%+v %#v", s, s); strings.Contains(text, "hush") {
		t.Error("password printed")
	}
}

func TestRefusedSettings(t *testing.T) {
	for _, kv := range []string{
		"CoolOffTimeUnitInSeconds=301", "CoolOffTimeUnitInSeconds=x", "MaxRestartCount=-1", "UsePersistentStorage=maybe", "ConfigRefreshFrequencySecs=0",
		"ModuleUpdateMode=Sometimes", "Mode=kubernetes", "ConfigSource=moon", "UpstreamProtocol=Http", "Metrics__Listener__port=0",
		"DockerRegistryAuth__0__username=u", "IOTEDGE_DEVICEID=", "PerformanceMetricsUpdateFrequency=00:00:04", "EDGEAGENTUSER_ID=-1", "MetricsHistogramMaxAge=1h",
	} {
		name, _, _ := strings.Cut(kv, "=")
		if _, err := settings.Parse(append(base[:len(base):len(base)], kv)); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(name, "username")) {
			t.Errorf("%s: %v", kv, err)
		}
	}
	_, err := settings.Parse(nil)
	for _, name := range []string{"IOTEDGE_MODULEID", "IOTEDGE_WORKLOADURI", "IOTEDGE_MANAGEMENTURI", "IOTEDGE_DEVICEID", "IOTEDGE_IOTHUBHOSTNAME", "IOTEDGE_MODULEGENERATIONID"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
}

func TestLocalConfig(t *testing.T) {
	for _, c := range []struct {
		more []string
		want string
	}{
		{nil, ""},
		{[]string{"LocalConfigPath=/data/d.json"}, ""},
		{[]string{"configsource=LOCAL"}, "config.json"},
		{[]string{"ConfigSource=local", "LocalConfigPath=/data/d.json"}, "/data/d.json"},
	} {
		if s, err := settings.Parse(append(base[:len(base):len(base)], c.more...)); err != nil || s.LocalConfig != c.want {
			t.Errorf("%q: %q, %v", c.more, s.LocalConfig, err)
		}
	}
}

func TestWhatIsNotSupportedIsSaid(t *testing.T) {
	for _, kv := range []string{
		"EnableNonPersistentStorageBackup=true", "UseOfflineCheck=true", "RuntimeLogLevel=loud", "CloseCloudConnectionOnIdleTimeout=true",
	} {
		name, _, _ := strings.Cut(kv, "=")
		s, err := settings.Parse(append(base[:len(base):len(base)], kv))
		if err != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], name) {
			t.Errorf("%s: %v %q", kv, err, s.Warnings)
		}
	}
	for _, kv := range []string{
		"UpstreamProtocol=Mqtt", "UpstreamProtocol=", "UpstreamProtocol=Amqp", "UpstreamProtocol=AmqpWs", "UpstreamProtocol=mqttws",
		"https_proxy=http://p", "UseOfflineCheck=false",
	} {
		_, value, _ := strings.Cut(kv, "=")
		s, err := settings.Parse(append(base[:len(base):len(base)], kv))
		if err != nil || len(s.Warnings) != 0 || strings.HasPrefix(kv, "Up") && s.Host.Upstream != value {
			t.Errorf("%s: %v %q", kv, err, s.Warnings)
		}
	}
}

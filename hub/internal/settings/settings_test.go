package settings_test

import (
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/route"
	"github.com/breakwater-iot/breakwater/hub/internal/settings"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

var given = []string{
	"IOTEDGE_DEVICEID=edge", "IOTEDGE_MODULEID=$edgeHub", "IOTEDGE_MODULEGENERATIONID=1",
	"IOTEDGE_IOTHUBHOSTNAME=hub.example", "EdgeDeviceHostName=gw.example", "IOTEDGE_WORKLOADURI=unix:///w.sock",
}

func TestDefaults(t *testing.T) {
	s, err := settings.FromEnvironment(given)
	if err != nil {
		t.Fatal(err)
	}
	if s.MaxClients != 100 || s.AckTimeout != 30*time.Second || s.MetricsPort != 9600 || !s.MQTTEnabled || !s.HTTPEnabled || s.HTTPPort != 443 || !s.AMQPEnabled || s.AMQPPort != 5671 ||
		s.LogLevel != slog.LevelInfo || s.StorageFolder != "/tmp" || !s.EncryptTwins || s.IdleTimeout != time.Hour {
		t.Errorf("settings %+v", s)
	}
}

func TestNamesAreNotCaseSensitiveAndEveryVariableCounts(t *testing.T) {
	s, err := settings.FromEnvironment(append([]string{
		"EDGEDEVICEHOSTNAME=other", "maxconnectedclients=7", "MESSAGEACKTIMEOUTSECS=5", "MQTTSETTINGS__ENABLED=False",
		"runtimeLogLevel=verbose", "Metrics__Listener__Port=1234", "CloseCloudConnectionOnIdleTimeout=false",
		"EncryptTwinStore=false", "StorageFolder=/data", "HTTPSETTINGS__enabled=false", "httpsettings__port=8443", "amqpSettings__enabled=false", "AMQPSETTINGS__PORT=15671",
	}, given[:4]...))
	if err == nil || !strings.Contains(err.Error(), "IOTEDGE_WORKLOADURI") {
		t.Errorf("error %v does not name the missing variable", err)
	}
	if s.GatewayName != "other" || s.MaxClients != 7 || s.AckTimeout != 5*time.Second || s.MQTTEnabled || s.HTTPEnabled || s.HTTPPort != 8443 || s.AMQPEnabled || s.AMQPPort != 15671 ||
		s.LogLevel != slog.LevelDebug || s.MetricsPort != 1234 || s.IdleTimeout != 0 || s.EncryptTwins || s.StorageFolder != "/data" {
		t.Errorf("settings %+v", s)
	}
}

func TestWrongValuesAreNamed(t *testing.T) {
	tests := map[string]string{
		"MaxConnectedClients":                       "many",
		"MessageAckTimeoutSecs":                     "-1",
		"MqttSettings__Enabled":                     "perhaps",
		"RuntimeLogLevel":                           "loud",
		"ShutdownWaitPeriod":                        "99999999999999999999",
		"QueueMaxBytes":                             "1 GB",
		"QueueWhenFull":                             "panic",
		"QueueDrain":                                "backwards",
		"ClientCertAuthEnabled":                     "maybe",
		"AuthenticationMode":                        "trust",
		"UpstreamProtocol":                          "Carrier pigeon",
		"Metrics__Listener__MetricsHistogramMaxAge": "1:99:00",
	}
	for name, value := range tests {
		_, err := settings.FromEnvironment(append([]string{name + "=" + value}, given...))
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), value) {
			t.Errorf("%s=%s: error %v", name, value, err)
		}
	}
}

func TestCloudConnections(t *testing.T) {
	s, err := settings.FromEnvironment(given)
	if err != nil || s.Hanging != 50*time.Second || s.CallTimeout != 20*time.Second || s.Connections != 1 ||
		s.Connectivity != 5*time.Minute || s.ConfigRefresh != time.Hour || s.MinTLS != tls.VersionTLS12 {
		t.Errorf("by default: %+v, %v", s, err)
	}
	s, err = settings.FromEnvironment(append([]string{"CloudConnectionHangingTimeoutSecs=7", "CloudOperationTimeoutSecs=3", "IotHubConnectionPoolSize=4",
		"ConnectivityCheckFrequencySecs=9", "ConfigRefreshFrequencySecs=60", "SslProtocols=tls1.3"}, given...))
	if err != nil || s.Hanging != 7*time.Second || s.CallTimeout != 3*time.Second || s.Connections != 4 ||
		s.Connectivity != 9*time.Second || s.ConfigRefresh != time.Minute || s.MinTLS != tls.VersionTLS13 {
		t.Errorf("%+v, %v", s, err)
	}
	for env, on := range map[string]bool{
		"experimentalFeatures__enabled=true experimentalFeatures__disableConnectivityCheck=true":  false,
		"experimentalFeatures__enabled=false experimentalFeatures__disableConnectivityCheck=true": true,
		"experimentalFeatures__disableConnectivityCheck=true":                                     true,
		"experimentalFeatures__enabled=true":                                                      true,
		"IotHubConnectionPoolSize=0":                                                              true,
	} {
		s, err := settings.FromEnvironment(append(strings.Fields(env), given...))
		if err != nil || (s.Connectivity > 0) != on || s.Connections != 1 {
			t.Errorf("%s: %v, %v", env, s.Connectivity, err)
		}
	}
	for text, want := range map[string]uint16{"tls1.0, TLS1.2": tls.VersionTLS12, "tls12,tls13": tls.VersionTLS12, "tls1.1": 0, "ssl3": 0, "tls1.3,x": 0} {
		s, err := settings.FromEnvironment(append([]string{"SslProtocols=" + text}, given...))
		if (err == nil) != (want != 0) || err == nil && s.MinTLS != want {
			t.Errorf("%q: %x, %v", text, s.MinTLS, err)
		}
	}
}

func TestTimeSpans(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": time.Hour, "01:00:00": time.Hour, "00:30": 30 * time.Minute, "00:00:05": 5 * time.Second, "2.01:00:00": 49 * time.Hour,
		"00:00:00": 0, "1h": 0, "1": 0, "-1:00:00": 0, "1:2:3:4": 0, "x.01:00:00": 0, "24:00:00": 0,
	} {
		s, err := settings.FromEnvironment(append([]string{"Metrics__Listener__MetricsHistogramMaxAge=" + text}, given...))
		if (err == nil) != (want != 0) || err == nil && s.MetricsMaxAge != want {
			t.Errorf("%q: %v, %v", text, s.MetricsMaxAge, err)
		}
	}
}

func TestAuthentication(t *testing.T) {
	s, err := settings.FromEnvironment(given)
	if err != nil || !s.ClientCerts || s.AuthMode != "Scope" || s.ProxyModule != "IoTEdgeAPIProxy" {
		t.Errorf("by default: %+v, %v", s, err)
	}
	s, err = settings.FromEnvironment(append([]string{"clientcertauthenabled=false", "AUTHENTICATIONMODE=cloudandscope", "ApiProxyModuleId=px"}, given...))
	if err != nil || s.ClientCerts || s.AuthMode != "CloudAndScope" || s.ProxyModule != "px" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestQueueLimits(t *testing.T) {
	s, err := settings.FromEnvironment(given)
	if err != nil || s.QueueMaxBytes != 0 || s.QueueMaxAge != 0 || s.QueueDropOldest || s.QueueLiveFirst {
		t.Errorf("by default: %+v, %v", s, err)
	}
	s, err = settings.FromEnvironment(append([]string{"QueueMaxBytes=1000000", "QueueMaxAgeSecs=60", "queuewhenfull=DROPOLDEST", "QueueDrain=live-first"}, given...))
	if err != nil || s.QueueMaxBytes != 1_000_000 || s.QueueMaxAge != time.Minute || !s.QueueDropOldest || !s.QueueLiveFirst {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestWayToTheCloud(t *testing.T) {
	s, err := settings.FromEnvironment(given)
	if err != nil || s.Upstream != client.AMQP || !s.UpstreamFallback || s.HTTPSProxy != "" || s.NoProxy != "" {
		t.Errorf("by default: %v %q %q, %v", s.Upstream, s.HTTPSProxy, s.NoProxy, err)
	}
	s, err = settings.FromEnvironment(append([]string{"upstreamprotocol=AMQPWS", "HTTPS_PROXY=http://p:1", "no_proxy=x,y"}, given...))
	if err != nil || s.Upstream != client.AMQPWS || s.UpstreamFallback || s.HTTPSProxy != "http://p:1" || s.NoProxy != "x,y" {
		t.Errorf("%v %q %q, %v", s.Upstream, s.HTTPSProxy, s.NoProxy, err)
	}
}

func TestConnectionsAndSubscriptions(t *testing.T) {
	s, err := settings.FromEnvironment(given)
	if err != nil || s.KeepConnections || s.LocalSubscribing || s.KeepForUnknown || s.LocalConfig != nil || s.MetricsHost != "" || s.MetricsPath != "/metrics" {
		t.Errorf("by default: %+v, %v", s, err)
	}
	s, err = settings.FromEnvironment(append([]string{
		"closeCloudConnectionOnDeviceDisconnect=false", "TRACKDEVICESTATE=false",
		"experimentalfeatures__enabled=true", "experimentalFeatures__disableCloudSubscriptions=true",
		"Metrics__Listener__Host=127.0.0.1", "Metrics__Listener__Suffix=/a/b/",
	}, given...))
	if err != nil || !s.KeepConnections || !s.LocalSubscribing || !s.KeepForUnknown || s.MetricsHost != "127.0.0.1" || s.MetricsPath != "/a/b" {
		t.Errorf("%+v, %v", s, err)
	}
	s, err = settings.FromEnvironment(append([]string{"experimentalFeatures__disableCloudSubscriptions=true", "Metrics__Listener__Host=*"}, given...))
	if err != nil || s.LocalSubscribing || s.MetricsHost != "" {
		t.Errorf("without the switch of all experiments: %+v, %v", s, err)
	}
}

func TestLocalConfiguration(t *testing.T) {
	for _, tt := range []struct {
		environ []string
		routes  string // "name: text" in the order of their names
	}{
		{[]string{"ConfigSource=LOCAL"}, "r1: FROM /* INTO $upstream"},
		{[]string{"ConfigSource=local", "routes__toCloud=FROM /messages/* WHERE a = 'x' INTO $upstream", "ROUTES__b=FROM /* INTO $upstream", "routes=no", "routes__=no"},
			"b: FROM /* INTO $upstream, toCloud: FROM /messages/* WHERE a = 'x' INTO $upstream"},
	} {
		s, err := settings.FromEnvironment(append(tt.environ, given...))
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := route.ParseConfig(s.LocalConfig)
		if err != nil {
			t.Fatalf("%s: %v", s.LocalConfig, err)
		}
		var doc struct{ Routes map[string]string }
		if err := json.Unmarshal(s.LocalConfig, &doc); err != nil {
			t.Fatal(err)
		}
		var list []string
		for name, text := range doc.Routes {
			list = append(list, name+": "+text)
		}
		slices.Sort(list)
		if got := strings.Join(list, ", "); got != tt.routes || cfg.TTL >= 0 {
			t.Errorf("%v: %s, time to live %v", tt.environ, got, cfg.TTL)
		}
	}
	if s, err := settings.FromEnvironment(append([]string{"routes__a=FROM /* INTO $upstream"}, given...)); err != nil || s.LocalConfig != nil {
		t.Errorf("routes without ConfigSource: %s, %v", s.LocalConfig, err)
	}
	if _, err := settings.FromEnvironment(append([]string{"ConfigSource=moon"}, given...)); err == nil {
		t.Error("another source: no error")
	}
}

func TestIgnoredVariablesAreNamed(t *testing.T) {
	got := settings.FindIgnored([]string{"PATH=/bin", "optimizeForPerformance=false", "MaxUpstreamBatchSize=20", "CacheTokens=", "EdgeHubDevTrustBundle=x", "MaxConnectedClients=5"})
	var names []string
	for _, i := range got {
		names = append(names, i.Name)
		if i.Reason == "" {
			t.Errorf("%s: no reason", i.Name)
		}
	}
	if strings.Join(names, " ") != "EdgeHubDevTrustBundle MaxUpstreamBatchSize optimizeForPerformance" {
		t.Errorf("found %v", names)
	}
}

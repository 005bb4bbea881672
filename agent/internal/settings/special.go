package settings

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
	"github.com/breakwater-iot/breakwater/proto/proxy"
)

func (r *reader) metrics() Metrics {
	host := r.text("Metrics__Listener__host", "*")
	if host == "*" || host == "+" {
		host = ""
	}
	port := r.number("Metrics__Listener__port", 9600, 1, 65535)
	return Metrics{
		Enabled: r.flag("MetricsEnabled", true),
		Address: net.JoinHostPort(host, strconv.Itoa(port)),
		Path:    "/" + strings.Trim(r.text("Metrics__Listener__suffix", "metrics"), "/"),
		MaxAge:  r.span("MetricsHistogramMaxAge", time.Hour, time.Minute),
		Update:  r.span("PerformanceMetricsUpdateFrequency", 5*time.Minute, 5*time.Second),
	}
}

// network reads the proxy's variables, whose names other programs write in small or
// in capital letters.
func (r *reader) network() *proxy.Dialer {
	d, err := proxy.New(r.text("https_proxy", ""), r.text("no_proxy", ""))
	if err != nil {
		r.fail("https_proxy", "%v", err)
	}
	return d
}

// registries reads DockerRegistryAuth__0__serverAddress and so on, up to the first
// number that is not there.
func (r *reader) registries(parent string) []manifest.Registry {
	var list []manifest.Registry
	for i := 0; ; i++ {
		prefix := fmt.Sprintf("DockerRegistryAuth__%d__", i)
		entry := manifest.Registry{
			Name:     prefix,
			Address:  r.text(prefix+"serverAddress", ""),
			Username: r.text(prefix+"username", ""),
			Password: manifest.Secret(r.text(prefix+"password", "")),
		}
		if entry.Address == "" && entry.Username == "" && entry.Password == "" {
			return list
		}
		if entry.Address == "" || entry.Username == "" || entry.Password == "" {
			r.fail(prefix, "serverAddress, username and password belong together")
			continue
		}
		address, ok := manifest.ReplaceUpstream(entry.Address, parent)
		if !ok {
			r.fail(prefix+"serverAddress", "$upstream needs a parent device, and this device has none")
		}
		entry.Address = address
		list = append(list, entry)
	}
}

// localConfig returns the file of ConfigSource=local.
func (r *reader) localConfig() string {
	if !r.choice("ConfigSource", "twin", "local") {
		return ""
	}
	return r.text("LocalConfigPath", "config.json")
}

// refuse finds settings that ask for what this agent does not do.
func (r *reader) refuse() {
	if v := r.text("Mode", "iotedged"); !strings.EqualFold(v, "iotedged") {
		r.fail("Mode", "only iotedged is supported, not %q", v)
	}
	if v := r.text("UpstreamProtocol", ""); v != "" {
		if _, err := client.ParseProtocol(v); err != nil {
			r.fail("UpstreamProtocol", "must be Amqp, AmqpWs, Mqtt or MqttWs, not %q", v)
		}
	}
	for _, f := range []struct{ name, what string }{
		{"EnableNonPersistentStorageBackup", "state in memory is not backed up"},
		{"CloseCloudConnectionOnIdleTimeout", "the cloud connection stays open"},
		{"UseOfflineCheck", "reports are sent without a probe before"},
		{"EnableStreams", "device streams do not exist"},
	} {
		if r.flag(f.name, false) {
			r.warn("%s is not supported: %s", f.name, f.what)
		}
	}
}

func (r *reader) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

package cloud_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/agent/internal/cloud"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

func TestEnvironmentThatIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		env  map[string]string
		says string
	}{
		"protocol": {map[string]string{"UpstreamProtocol": "Http"}, "UpstreamProtocol"},
		"proxy":    {map[string]string{"https_proxy": "socks5://me:s3cret@p:1"}, "https_proxy"},
		"module":   {map[string]string{"UpstreamProtocol": "mqttws", "HTTPS_PROXY": "p:3128"}, "IOTEDGE_WORKLOADURI"},
	} {
		_, err := cloud.Connect(func(name string) string { return tt.env[name] })(t.Context(), "test", slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
		if name != "proxy" && !errors.Is(err, client.ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusedCredentialsAreTold(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{fmt.Errorf("login: %w", client.ErrUnauthorized), 1}, {client.ErrRefused, 0}, {client.ErrConnectionLost, 0}, {nil, 0},
	} {
		c, told := &cloud.Cloud{}, 0
		c.Tell(client.Connection{State: client.Disconnected, Err: tt.err}) // nobody listens
		c.OnRefused(func() { told++ })
		c.Tell(client.Connection{State: client.Disconnected, Err: tt.err})
		if told != tt.want {
			t.Errorf("%v: told %d times", tt.err, told)
		}
	}
}

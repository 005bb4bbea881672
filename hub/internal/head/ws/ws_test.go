package ws_test

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/head/ws"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve has heads that say their names to whoever connects.
func serve(t *testing.T) string {
	says := func(name string) ws.Serve {
		return func(_ context.Context, nc net.Conn, _ []*x509.Certificate) { _, _ = io.WriteString(nc, name) }
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := ws.New(ctx, map[string]ws.Serve{"mqtt": says("mqtt"), "AMQPWSB10": says("amqp"), "amqp": says("amqp")})
	web := httptest.NewServer(h)
	t.Cleanup(func() {
		cancel()
		h.Wait()
		web.Close()
	})
	return web.URL
}

// The client's spelling is echoed: MQTT.js and .NET refuse the connection otherwise.
func TestSubprotocolChoosesTheHead(t *testing.T) {
	url := serve(t)
	for _, tt := range []struct {
		path      string
		asked     []string
		echo, who string
	}{
		{"/$iothub/websocket", []string{"mqtt"}, "mqtt", "mqtt"},
		{"/$iothub/websocket?iothub-no-client-cert=true", []string{"mqtt"}, "mqtt", "mqtt"},
		{"/$iothub/websocket?other=x&y", []string{"AMQPWSB10"}, "AMQPWSB10", "amqp"},
		{"/$servicebus/websocket", []string{"AMQPWSB10"}, "AMQPWSB10", "amqp"},
		{"/", []string{"MQTT"}, "MQTT", "mqtt"},
		{"/", []string{"amqpwsb10"}, "amqpwsb10", "amqp"},
		{"/", []string{"mqttv3.1", "mqtt"}, "mqtt", "mqtt"},
		{"/", []string{"amqp"}, "amqp", "amqp"},
	} {
		c, _, err := websocket.Dial(t.Context(), url+tt.path, &websocket.DialOptions{Subprotocols: tt.asked})
		if err != nil {
			t.Errorf("%s %v: %v", tt.path, tt.asked, err)
			continue
		}
		kind, who, err := c.Read(t.Context())
		if c.Subprotocol() != tt.echo || string(who) != tt.who || kind != websocket.MessageBinary || err != nil {
			t.Errorf("%s %v: echo %q, head %q, kind %v, %v", tt.path, tt.asked, c.Subprotocol(), who, kind, err)
		}
		_ = c.CloseNow()
	}
}

func TestUnknownSubprotocolsAreABadRequest(t *testing.T) {
	url := serve(t)
	for _, asked := range [][]string{nil, {"soap"}, {"mqttv3.1"}, {"mqtts", "amqps"}} {
		c, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{Subprotocols: asked})
		if err == nil {
			_ = c.CloseNow()
			t.Errorf("%v: connected", asked)
			continue
		}
		if resp == nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%v: %v, %v", asked, resp, err)
		}
	}
}

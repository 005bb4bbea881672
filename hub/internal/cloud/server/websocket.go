package server

import (
	"context"
	"net/http"
	"sync"

	"github.com/coder/websocket"

	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
)

// webSockets serves MQTT over WebSockets.
type webSockets struct {
	ctx     context.Context // ends all connections; http knows nothing of them
	devices *mqtt.Server
	mu      sync.Mutex
	closed  bool
	open    sync.WaitGroup
}

func newWebSockets(ctx context.Context, devices *mqtt.Server) *webSockets {
	return &webSockets{ctx: ctx, devices: devices}
}

// ServeHTTP implements http.Handler.
func (h *webSockets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		http.Error(w, "the hub is going down", http.StatusServiceUnavailable)
		return
	}
	h.open.Add(1)
	h.mu.Unlock()
	defer h.open.Done()
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{"mqtt"},
		// Devices are no browsers and carry no cookies, so any origin will do.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = c.CloseNow() }()
	if c.Subprotocol() != "mqtt" {
		_ = c.Close(websocket.StatusPolicyViolation, "only mqtt is spoken here")
		return
	}
	c.SetReadLimit(-1) // the head bounds packets, which may span frames
	t := mqtt.Transport{Protocol: "mqtt-ws"}
	if r.TLS != nil {
		t.Peer = r.TLS.PeerCertificates
	}
	h.devices.ServeConn(h.ctx, websocket.NetConn(h.ctx, c, websocket.MessageBinary), t)
}

// wait refuses new connections and waits for those that are there.
func (h *webSockets) wait() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.open.Wait()
}

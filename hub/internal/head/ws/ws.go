// Package ws lets protocols run inside WebSockets: it picks the protocol that a
// client asks for by its sub-protocol and hands the byte stream to that protocol's
// head (spec iothub-mqtt 1).
package ws

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/coder/websocket"

	"github.com/breakwater-iot/breakwater/hub/internal/head/listen"
)

// Serve serves one connection and returns when it has ended. peer is the chain of
// certificates that the client has shown in TLS, perhaps empty.
type Serve func(ctx context.Context, nc net.Conn, peer []*x509.Certificate)

// Handler takes WebSockets. Path and query of the request are not looked at.
type Handler struct {
	ctx       context.Context // ends all connections; http knows nothing of them
	protocols map[string]Serve
	names     []string // of protocols, in a fixed order

	mu     sync.Mutex
	closed bool
	open   sync.WaitGroup
}

var _ http.Handler = (*Handler)(nil)

// New returns a handler for sub-protocols by name. Connections end with ctx.
func New(ctx context.Context, protocols map[string]Serve) *Handler {
	h := &Handler{ctx: ctx, protocols: make(map[string]Serve, len(protocols))}
	for name, serve := range protocols {
		h.protocols[strings.ToLower(name)] = serve
		h.names = append(h.names, name)
	}
	slices.Sort(h.names)
	return h
}

// Asked tells whether a request asks for a WebSocket.
func Asked(r *http.Request) bool { return holds(r.Header, "Upgrade", "websocket") }

// ServeHTTP takes the connection over. A request for none of the known
// sub-protocols gets 400.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.enter() {
		http.Error(w, "the hub is going down", http.StatusServiceUnavailable)
		return
	}
	defer h.open.Done()
	if Asked(r) && !slices.ContainsFunc(h.names, func(name string) bool { return holds(r.Header, "Sec-WebSocket-Protocol", name) }) {
		http.Error(w, "no known WebSocket sub-protocol; known: "+strings.Join(h.names, ", "), http.StatusBadRequest)
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: h.names, // the answer repeats the client's spelling
		// Devices are no browsers and carry no cookies, so any origin will do.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = c.CloseNow() }()
	serve := h.protocols[strings.ToLower(c.Subprotocol())]
	if serve == nil {
		_ = c.Close(websocket.StatusPolicyViolation, "unknown sub-protocol")
		return
	}
	c.SetReadLimit(-1) // the protocol bounds its packets, which may span frames
	var peer []*x509.Certificate
	if r.TLS != nil {
		peer = r.TLS.PeerCertificates
	}
	serve(listen.Within(h.ctx, r.Context()), websocket.NetConn(h.ctx, c, websocket.MessageBinary), peer)
}

func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.open.Add(1)
	}
	return !h.closed
}

// Wait refuses new connections and waits for those that are there. They end with
// the context of New.
func (h *Handler) Wait() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.open.Wait()
}

// holds tells whether a header that is a list has a member, in any case.
func holds(header http.Header, name, member string) bool {
	for _, line := range header.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), member) {
				return true
			}
		}
	}
	return false
}

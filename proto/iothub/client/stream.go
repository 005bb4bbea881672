package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/coder/websocket"
)

// endpoint is where to connect and how.
type endpoint struct {
	protocol    Protocol
	host        string
	port        int
	rootCAs     *x509.CertPool
	roots       func() *x509.CertPool // in place of rootCAs; nil without
	certificate *tls.Certificate      // nil without
	dial        func(ctx context.Context, network, address string) (net.Conn, error)
	fallback    bool // to AMQPWS where AMQP is not let through
}

func (o *Options) endpoint() endpoint {
	return endpoint{o.Protocol, o.Host, o.Port, o.RootCAs, o.Roots, o.ClientCertificate, o.Dial, o.Fallback}
}

// stream is the byte stream that a protocol runs on: TLS, or a WebSocket in it.
type stream struct {
	net.Conn
	raw net.Conn        // the network connection
	ws  *websocket.Conn // nil without
}

// hangUp ends the stream without the goodbyes of TLS and WebSocket, which would
// wait for a peer that does not read. The protocols have their own.
func (s *stream) hangUp() {
	_ = s.raw.Close()
	if s.ws != nil {
		_ = s.ws.CloseNow() // waits for its goroutine
		_ = s.Conn.Close()  // frees what the net.Conn around it holds
	}
}

// Close says goodbye in TLS only.
func (s *stream) Close() error {
	if s.ws != nil {
		s.hangUp()
		return nil
	}
	return s.Conn.Close()
}

// open makes the connection. ctx bounds the attempt.
func (e *endpoint) open(ctx context.Context) (*stream, error) {
	conn, raw, err := e.secure(ctx)
	if err != nil {
		return nil, err
	}
	if protocols[e.protocol].subprotocol == "" {
		return &stream{Conn: conn, raw: raw}, nil
	}
	ws, err := e.upgrade(ctx, conn)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	// Each write is a message of its own, and the AMQP client writes each frame at
	// once: some servers want one frame in a message.
	return &stream{Conn: websocket.NetConn(context.Background(), ws, websocket.MessageBinary), raw: raw, ws: ws}, nil
}

// secure opens the network connection with TLS.
func (e *endpoint) secure(ctx context.Context) (conn *tls.Conn, raw net.Conn, err error) {
	address := net.JoinHostPort(e.host, strconv.Itoa(e.port))
	raw, err = e.dial(ctx, "tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("dial %s: %w", address, err)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: e.host,
		RootCAs:    e.rootCAs,
	}
	if e.roots != nil {
		config.RootCAs = e.roots()
	}
	if e.certificate != nil {
		config.Certificates = []tls.Certificate{*e.certificate}
	}
	conn = tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return conn, raw, nil
}

// upgrade makes a WebSocket of the connection (iothub-amqp.md 1).
func (e *endpoint) upgrade(ctx context.Context, conn *tls.Conn) (*websocket.Conn, error) {
	u := url.URL{Scheme: "wss", Host: net.JoinHostPort(e.host, strconv.Itoa(e.port)), Path: "/$iothub/websocket"}
	if e.certificate == nil {
		u.RawQuery = "iothub-no-client-cert=true"
	}
	transport := &http.Transport{
		DialTLSContext:         func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true,
	}
	// The handshake knows contexts, but then waits for the goodbye of TLS.
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	ws, response, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Subprotocols:    []string{protocols[e.protocol].subprotocol},
		CompressionMode: websocket.CompressionDisabled,
	})
	if response != nil && response.Body != nil && err != nil {
		_ = response.Body.Close()
	}
	if !stop() {
		if err == nil {
			_ = ws.CloseNow()
		}
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("WebSocket of %s: %w", u.Host, err)
	}
	if ws.Subprotocol() == "" {
		_ = ws.CloseNow()
		return nil, fmt.Errorf("%w: no WebSocket for %s at %s", ErrRefused, e.protocol, u.Host)
	}
	ws.SetReadLimit(-1) // the protocols bound their packets
	return ws, nil
}

package http_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
	httphead "github.com/breakwater-iot/breakwater/hub/internal/head/http"
	"github.com/breakwater-iot/breakwater/hub/internal/head/ws"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestCertificatesThroughTheProxy(t *testing.T) {
	ca := certtest.New(t, "ca", time.Now(), nil)
	leaf := ca.Leaf(t, "leaf+1", time.Now())
	text := func(list ...*x509.Certificate) string {
		var out []byte
		for _, c := range list {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		return url.PathEscape(string(out))
	}
	many := make([]*x509.Certificate, 9)
	for i := range many {
		many[i] = leaf
	}
	const good, bad = "SharedAccessSignature good", "SharedAccessSignature bad"
	tests := map[string]struct {
		proxy, token, header string
		chain                int // how many certificates the protocol is told
	}{
		"one":                  {"proxy", good, text(leaf), 1},
		"with its authority":   {"proxy", good, text(leaf, ca.Cert), 2},
		"wrong token":          {"proxy", bad, text(leaf), 0},
		"no token":             {"proxy", "", text(leaf), 0},
		"no proxy is known":    {"", good, text(leaf), 0},
		"no header":            {"proxy", good, "", 0},
		"no certificate":       {"proxy", good, "x", 0},
		"broken escapes":       {"proxy", good, text(leaf) + "%", 0},
		"more than is allowed": {"proxy", good, text(many...), 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h, seen := &hub{}, make(chan []*x509.Certificate, 1)
			p := start(t, h, func(o *httphead.Options) {
				o.ProxyModule = tt.proxy
				o.WebSockets = map[string]ws.Serve{"probe": func(_ context.Context, _ net.Conn, peer []*x509.Certificate) { seen <- peer }}
			})
			header := http.Header{}
			for name, v := range map[string]string{"Authorization": tt.token, "X-Ms-Edge-Clientcert": tt.header} {
				if v != "" {
					header.Set(name, v)
				}
			}
			c, _, err := websocket.Dial(t.Context(), "wss"+strings.TrimPrefix(p.base, "https"), &websocket.DialOptions{
				HTTPClient: p.client, HTTPHeader: header, Subprotocols: []string{"probe"}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			select {
			case peer := <-seen:
				if len(peer) != tt.chain || tt.chain > 0 && !peer[0].Equal(leaf) {
					t.Errorf("%d certificates", len(peer))
				}
			case <-time.After(patience):
				t.Fatal("nothing seen")
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, l := range h.logins {
				if l.Identity != iothub.ModuleIdentity("edge", "proxy") || l.Peer != nil {
					t.Errorf("asked about %+v", l.Identity)
				}
			}
		})
	}
}

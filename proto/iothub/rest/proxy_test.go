package rest_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/proxy"
)

func TestCallsGoThroughAProxy(t *testing.T) {
	hub := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"deviceId":"d"}`) }))
	defer hub.Close()
	roots := x509.NewCertPool()
	roots.AddCert(hub.Certificate())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer l.Close()
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { tunnel(c, hub.Listener.Addr().String()) })
		}
	})
	for user, fails := range map[string]error{"me:s3cret": nil, "me:gu3ss": proxy.ErrAuthentication} {
		way, err := proxy.New("http://"+user+"@"+l.Addr().String(), "")
		if err != nil {
			t.Fatal(err)
		}
		c, err := rest.New(rest.Options{
			HubName: "example.com", RootCAs: roots, Dial: way.DialContext, Attempts: 1, Timeout: 10 * time.Second,
			Authorize: func(context.Context) (string, error) { return "token", nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.GetDevice(t.Context(), "d")
		if !errors.Is(err, fails) || err != nil && strings.Contains(err.Error(), "gu3ss") {
			t.Errorf("error %v, want %v", err, fails)
		}
		c.Close()
	}
}

// tunnel serves one connection of a proxy that wants me and s3cret.
func tunnel(c net.Conn, target string) {
	defer c.Close()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	if r.Method != http.MethodConnect || r.Host != "example.com:443" || r.Header.Get("Proxy-Authorization") != "Basic bWU6czNjcmV0" {
		_, _ = io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
		return
	}
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(out, c); _ = out.Close() })
	both.Go(func() { _, _ = io.Copy(c, out); _ = c.Close() })
	both.Wait()
}

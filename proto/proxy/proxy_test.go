package proxy_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/proto/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a CONNECT proxy. It connects to target whatever it is asked for.
type server struct {
	listener net.Listener
	target   string
	auth     string // wanted "name:password"; empty: none
	status   int    // refuses with it, if not 0
	early    string // sent behind the answer at once
	silent   bool
	tunnels  atomic.Int32
	asked    sync.Map
	work     sync.WaitGroup
}

func serve(t *testing.T, s *server) *server {
	t.Helper()
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.work.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() { s.handle(c) })
		}
	})
	t.Cleanup(func() {
		_ = s.listener.Close()
		s.work.Wait()
	})
	return s
}

func (s *server) handle(c net.Conn) {
	defer c.Close()
	if s.silent {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil || r.Method != http.MethodConnect {
		return
	}
	s.asked.Store(r.Host, true)
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(s.auth))
	switch {
	case s.auth != "" && r.Header.Get("Proxy-Authorization") != want:
		_, _ = io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	case s.status != 0:
		_, _ = fmt.Fprintf(c, "HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n", s.status)
		return
	}
	out, err := net.Dial("tcp", s.target)
	if err != nil {
		return
	}
	defer out.Close()
	s.tunnels.Add(1)
	_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"+s.early)
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(out, c); _ = out.Close() })
	both.Go(func() { _, _ = io.Copy(c, out); _ = c.Close() })
	both.Wait()
}

// echo returns the address of a server that returns what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	return l.Addr().String()
}

func TestConnections(t *testing.T) {
	tests := map[string]struct {
		server   *server
		user     string
		fails    error
		received string
	}{
		"open proxy":              {&server{}, "", nil, "hello"},
		"with name and password":  {&server{auth: "me:s3cret"}, "me:s3cret@", nil, "hello"},
		"escaped password":        {&server{auth: "me:p@ss/word"}, "me:p%40ss%2Fword@", nil, "hello"},
		"wrong password":          {&server{auth: "me:s3cret"}, "me:gu3ss@", proxy.ErrAuthentication, ""},
		"no password":             {&server{auth: "me:s3cret"}, "", proxy.ErrAuthentication, ""},
		"refusing proxy":          {&server{status: 403}, "me:s3cret@", proxy.ErrRefused, ""},
		"the other side is first": {&server{early: "early "}, "", nil, "early hello"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := tt.server
			s.target = echo(t)
			serve(t, s)
			d, err := proxy.New("http://"+tt.user+s.listener.Addr().String(), "")
			if err != nil {
				t.Fatal(err)
			}
			conn, err := d.DialContext(t.Context(), "tcp", "hub.test:5671")
			if !errors.Is(err, tt.fails) || (err != nil) != (tt.fails != nil) {
				t.Fatalf("error %v, want %v", err, tt.fails)
			}
			if err != nil {
				for _, secret := range []string{"s3cret", "gu3ss", "me:"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("error shows credentials: %v", err)
					}
				}
				return
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "hello"); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(tt.received))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != tt.received {
				t.Errorf("received %q, %v", got, err)
			}
			if _, ok := s.asked.Load("hub.test:5671"); !ok || s.tunnels.Load() != 1 {
				t.Error("not through the proxy")
			}
		})
	}
}

func TestWhatGoesThroughTheProxy(t *testing.T) {
	env := map[string]string{"https_proxy": "proxy.test:3128", "NO_PROXY": "edgehub,.local.test,10.0.0.0/8,other.test:8883"}
	d, err := proxy.FromEnvironment(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"hub.test:443": "proxy.test:3128", "hub.test:5671": "proxy.test:3128", "hub.test:8883": "proxy.test:3128",
		"edgehub:8883": "", "gw.local.test:8883": "", "10.1.2.3:443": "", "localhost:443": "", "127.0.0.1:443": "",
		"other.test:8883": "", "other.test:443": "proxy.test:3128",
	} {
		if got := d.Through(address); got != want {
			t.Errorf("%s: through %q, want %q", address, got, want)
		}
	}
}

func TestSettingsThatAreNoProxy(t *testing.T) {
	for _, server := range []string{"socks5://me:s3cret@proxy:1080", "http://me:s3cret@pro xy:1", "http://me:s3cret@[::1:3128", "http://", "ftp://x"} {
		_, err := proxy.New(server, "")
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", server, err)
		}
	}
	d, err := proxy.New("", "")
	if err != nil || d.Through("hub.test:443") != "" {
		t.Errorf("without a proxy: %v", err)
	}
	conn, err := d.DialContext(t.Context(), "tcp", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestSilentProxyIsGivenUpWithTheContext(t *testing.T) {
	s := serve(t, &server{silent: true})
	d, err := proxy.New(s.listener.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.DialContext(ctx, "tcp", "hub.test:443"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestProxyThatIsNotThere(t *testing.T) {
	d, err := proxy.New("http://me:s3cret@127.0.0.1:1", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", "hub.test:443"); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v", err)
	}
}

func TestProxyThatTalksNonsense(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		line := "X: " + strings.Repeat("x", 1000) + "\r\n"
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for range 1000 { // without an end
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, c)
	})
	defer work.Wait()
	defer l.Close()
	d, err := proxy.New(l.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", "hub.test:443"); err == nil {
		t.Error("no error")
	}
}

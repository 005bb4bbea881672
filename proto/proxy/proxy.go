// Package proxy makes network connections through HTTP proxies, by CONNECT. Where
// to go through one is told by the variables that most programs know:
// https_proxy, which may hold name and password, and no_proxy.
//
// Names and passwords of proxies are in no error and no text of this package.
package proxy

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// Errors of a proxy, wrapped by those of DialContext.
var (
	// ErrAuthentication: the proxy wants a name and password, or others.
	ErrAuthentication = errors.New("proxy authentication required")
	// ErrRefused: the proxy does not connect there; many allow port 443 only.
	ErrRefused = errors.New("refused by the proxy")
)

var errSetting = errors.New("https_proxy is no URL of a proxy")

const (
	maxHeader      = 64 << 10         // of a proxy's answer
	connectTimeout = 30 * time.Second // for the whole way through a proxy
)

// Dialer makes connections, through a proxy where one is set for the address. It
// may be used concurrently.
type Dialer struct {
	choose func(*url.URL) (*url.URL, error)
	// dial makes the connection to the proxy, or past it.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// FromEnvironment returns the dialer of the variables https_proxy and no_proxy, or
// of HTTPS_PROXY and NO_PROXY where those are not set.
func FromEnvironment(getenv func(string) string) (*Dialer, error) {
	return New(
		cmp.Or(getenv("https_proxy"), getenv("HTTPS_PROXY")),
		cmp.Or(getenv("no_proxy"), getenv("NO_PROXY")),
	)
}

// New returns a dialer for one proxy, with exceptions. server is
// "[http[s]://][name:password@]host[:port]"; if it is empty there is no proxy.
// except lists hosts, domains, networks and ports as no_proxy does. Loopback
// addresses never go through the proxy.
func New(server, except string) (*Dialer, error) {
	d := &Dialer{dial: (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext}
	if server == "" {
		return d, nil
	}
	// What is no URL would else count as no proxy, and go past it.
	full := server
	if !strings.Contains(server, "://") {
		full = "http://" + server
	}
	u, err := url.Parse(full)
	switch {
	case err != nil, u.Hostname() == "": // the error repeats the setting
		return nil, errSetting
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("https_proxy: scheme %q is not supported: want http or https", u.Scheme)
	}
	d.choose = (&httpproxy.Config{HTTPSProxy: full, NoProxy: except}).ProxyFunc()
	return d, nil
}

// Through returns host and port of the proxy for an address, or "".
func (d *Dialer) Through(address string) string {
	u, err := d.proxyFor(address)
	if err != nil || u == nil {
		return ""
	}
	return hostPort(u)
}

func (d *Dialer) proxyFor(address string) (*url.URL, error) {
	if d.choose == nil {
		return nil, nil
	}
	u, err := d.choose(&url.URL{Scheme: "https", Host: address})
	if err != nil {
		return nil, errSetting
	}
	return u, nil
}

// DialContext connects to a TCP address, as net.Dialer does.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	u, err := d.proxyFor(address)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return d.dial(ctx, network, address)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := d.dial(ctx, network, hostPort(u))
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", hostPort(u), err)
	}
	// The exchange is not made for contexts, so the end of ctx closes its connection.
	raw := conn
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, err = tunnel(conn, u, address)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("proxy %s: %w", hostPort(u), err)
	}
	return conn, nil
}

// tunnel asks the proxy for a connection to the address.
func tunnel(conn net.Conn, proxy *url.URL, address string) (net.Conn, error) {
	if proxy.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: proxy.Hostname()})
	}
	request := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Opaque: address},
		Host:   address,
		Header: http.Header{"User-Agent": {""}},
	}
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		pair := proxy.User.Username() + ":" + password
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	if err := request.Write(conn); err != nil {
		return nil, fmt.Errorf("send CONNECT: %w", err)
	}
	bounded := &io.LimitedReader{R: conn, N: maxHeader}
	br := bufio.NewReader(bounded)
	response, err := http.ReadResponse(br, request)
	if err != nil {
		return nil, fmt.Errorf("answer to CONNECT: %w", err)
	}
	_ = response.Body.Close() // of a tunnel, or of no interest
	switch {
	case response.StatusCode == http.StatusProxyAuthRequired:
		return nil, ErrAuthentication
	case response.StatusCode/100 != 2:
		return nil, fmt.Errorf("%w: connection to %s: status %d", ErrRefused, address, response.StatusCode)
	}
	if n := br.Buffered(); n > 0 {
		begun, _ := br.Peek(n)
		return &begunConn{Conn: conn, begun: begun}, nil
	}
	return conn, nil
}

// begunConn is a connection from which something has been read too early.
type begunConn struct {
	net.Conn
	begun []byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.begun) > 0 {
		n := copy(b, c.begun)
		c.begun = c.begun[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

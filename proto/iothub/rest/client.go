package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Versions of the API that the client names.
const (
	apiVersion      = "2021-04-12"
	scopeAPIVersion = "2020-06-30-preview"
)

// maxBody bounds an answer that is held in memory: 1000 devices of a list with
// long ids stay far below.
const maxBody = 16 << 20

// Options configure New. HubName and either Authorize or Certificate are required.
type Options struct {
	// HubName is the host name of the hub.
	HubName string
	// Host is where to connect: "name" or "name:port" of a gateway or parent. Empty
	// means HubName. The server's certificate must be for this name.
	Host string
	// Authorize returns the value of the Authorization header. It is called for
	// each attempt and may block on the context.
	Authorize func(ctx context.Context) (string, error)
	// Certificate returns the client certificate, if the hub asks for one.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// RootCAs are trusted; nil means those of the system.
	RootCAs *x509.CertPool
	// Roots, if not nil, gives what is trusted in place of RootCAs, anew for each
	// connection. It needs a Dial.
	Roots func() *x509.CertPool
	// Dial replaces the dialer, and with it the proxy of the environment.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Timeout limits one attempt; 0 means 30 s. Calls that wait by their nature
	// (methods, events) have limits of their own.
	Timeout time.Duration
	// Attempts is how often a request is tried at most; 0 means 3.
	Attempts int
	// Backoff is the pause before the second attempt; it doubles up to MaxBackoff.
	// 0 means 1 s and 10 s.
	Backoff, MaxBackoff time.Duration
	// UserAgent is sent if not empty.
	UserAgent string
}

// Client calls the REST API of a hub. Its methods may be called concurrently. They
// fail with *Error when the hub refused, and with another error when it could not
// be reached; status 429 and 5xx and connection failures were then tried again
// already. Close frees its connections.
type Client struct {
	o    Options
	base string
	http *http.Client
}

// New makes a client; it does not connect.
func New(o Options) (*Client, error) {
	if o.HubName == "" {
		return nil, errors.New("hub client: no hub name")
	}
	if o.Authorize == nil && o.Certificate == nil {
		return nil, errors.New("hub client: no credentials")
	}
	if o.Host == "" {
		o.Host = o.HubName
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Attempts == 0 {
		o.Attempts = 3
	}
	if o.Backoff == 0 {
		o.Backoff = time.Second
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 10 * time.Second
	}
	var proxy func(*http.Request) (*url.URL, error)
	if o.Dial == nil {
		proxy = http.ProxyFromEnvironment
		o.Dial = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	base := url.URL{Scheme: "https", Host: o.Host}
	transport := &http.Transport{
		Proxy:               proxy,
		DialContext:         o.Dial,
		TLSHandshakeTimeout: handshakeTimeout,
		TLSClientConfig: &tls.Config{
			MinVersion:           tls.VersionTLS12,
			RootCAs:              o.RootCAs,
			GetClientCertificate: o.Certificate,
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     60 * time.Second,
	}
	if o.Roots != nil {
		transport.DialTLSContext = o.dialTLS
	}
	return &Client{o: o, base: base.String(), http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

const handshakeTimeout = 15 * time.Second

// dialTLS opens a connection with the roots of the moment.
func (o *Options) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	raw, err := o.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: o.Roots(), GetClientCertificate: o.Certificate,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return conn, nil
}

// Close frees idle connections. Calls that run are not disturbed.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request is one call, which may take several attempts.
type request struct {
	method  string
	path    string // escaped, without api-version
	query   url.Values
	version string // of the API; empty means apiVersion
	ifMatch string
	body    any         // nil for none
	raw     []byte      // in place of body, if not nil
	header  http.Header // more headers
	// once is set when an attempt that got to the hub may not be repeated.
	once    bool
	timeout time.Duration // of an attempt; 0 means Options.Timeout
}

// do sends the request and decodes the answer into out (nil: ignore it).
func (c *Client) do(ctx context.Context, r request, out any) error {
	body := r.raw
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return fmt.Errorf("%s %s: encode: %w", r.method, r.path, err)
		}
	}
	if r.timeout == 0 {
		r.timeout = c.o.Timeout
	}
	wait := c.o.Backoff
	for attempt := 1; ; attempt++ {
		err := c.attempt(ctx, r, body, out)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = errors.Join(ctx.Err(), err) // the caller gave up; err is how far it came
		}
		if attempt >= c.o.Attempts || !retryable(ctx, r, err) {
			return fmt.Errorf("%s %s: %w", r.method, r.path, err)
		}
		pause := wait/2 + rand.N(wait)/2
		var refused *Error
		if errors.As(err, &refused) && refused.RetryAfter > pause {
			pause = min(refused.RetryAfter, c.o.MaxBackoff)
		}
		wait = min(2*wait, c.o.MaxBackoff)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s %s: %w", r.method, r.path, errors.Join(ctx.Err(), err))
		}
	}
}

// rawAnswer, given to do as out, takes an answer as it is.
type rawAnswer struct {
	status int
	header http.Header
	body   []byte
}

// permanentError marks failures on our side, which do not get better.
type permanentError struct{ error }

func (p permanentError) Unwrap() error { return p.error }

func retryable(ctx context.Context, r request, err error) bool {
	if ctx.Err() != nil || errors.As(err, new(permanentError)) {
		return false
	}
	var refused *Error
	if errors.As(err, &refused) {
		if refused.Status == http.StatusTooManyRequests {
			return true
		}
		return refused.Temporary() && !r.once
	}
	return !r.once
}

func (c *Client) attempt(ctx context.Context, r request, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	resp, err := c.send(ctx, r, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case len(answer) > maxBody:
		return permanentError{fmt.Errorf("answer is longer than %d bytes", maxBody)}
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return parseError(resp.StatusCode, resp.Header, answer)
	case out == nil:
		return nil
	}
	if raw, ok := out.(*rawAnswer); ok {
		*raw = rawAnswer{status: resp.StatusCode, header: resp.Header, body: answer}
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return permanentError{fmt.Errorf("decode answer: %w", err)}
	}
	return nil
}

// send sends one attempt and returns the answer with its body open.
func (c *Client) send(ctx context.Context, r request, body []byte) (*http.Response, error) {
	query := url.Values{}
	for k, v := range r.query {
		query[k] = v
	}
	if r.version == "" {
		r.version = apiVersion
	}
	query.Set("api-version", r.version)
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil, permanentError{err}
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	if c.o.UserAgent != "" {
		req.Header.Set("User-Agent", c.o.UserAgent)
	}
	if r.ifMatch != "" {
		req.Header.Set("If-Match", quoteEtag(r.ifMatch))
	}
	if c.o.Authorize != nil {
		value, err := c.o.Authorize(ctx)
		if err != nil {
			return nil, fmt.Errorf("authorize: %w", err)
		}
		req.Header.Set("Authorization", value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		// *url.Error repeats method and URL, which the caller adds anyway.
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			return nil, permanentError{err}
		}
		return nil, err
	}
	return resp, nil
}

func quoteEtag(tag string) string {
	if tag == "*" || strings.HasPrefix(tag, `"`) || strings.HasPrefix(tag, `W/`) {
		return tag
	}
	return `"` + tag + `"`
}

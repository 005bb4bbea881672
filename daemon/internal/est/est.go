// Package est gets certificates from an EST server (RFC 7030): it enrolls, enrolls
// again with the certificate that is to be replaced, and fetches the CA certificates
// that complete the chain. Requests for CA attributes, server-side keys and the
// "full CMC" form are not used.
package est

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
)

const (
	// maxBody bounds an answer; chains have a few KiB.
	maxBody = 1 << 20
	// A server that asks for patience gets this much, in pauses within these bounds.
	patience            = 10 * time.Minute
	minPause, maxPause  = time.Second, 2 * time.Minute
	defaultRequestLimit = 70 * time.Second
)

// Options configures New. URL is needed.
type Options struct {
	// URL is the base of the service, "https://host/.well-known/est", with a label
	// behind it if the server has several CAs.
	URL string
	// Username and Password are sent if not empty.
	Username, Password string
	// Certificate returns the client certificate to enroll with; nil for none.
	Certificate func(ctx context.Context) (*tls.Certificate, error)
	// Reenroll has a certificate that is still valid vouch for its successor.
	Reenroll bool
	// RootCAs are trusted; nil means those of the system.
	RootCAs *x509.CertPool
	// Timeout limits one request; 0 means 70 s.
	Timeout   time.Duration
	UserAgent string
	// Dial replaces the dialer, for tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client enrolls at one server. It is safe for concurrent use.
type Client struct {
	o    Options
	base string
}

var _ pki.Issuer = (*Client)(nil)

// Error is an answer other than a certificate.
type Error struct {
	Status int
	Text   string // what the server said, shortened; may be empty
}

// Error says status and text.
func (e *Error) Error() string {
	s := "EST server answered " + strconv.Itoa(e.Status) + " " + http.StatusText(e.Status)
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// New makes a client; it does not connect.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("est client: no https URL")
	}
	if o.Timeout == 0 {
		o.Timeout = defaultRequestLimit
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 15 * time.Second}).DialContext
	}
	return &Client{o: o, base: strings.TrimRight(o.URL, "/")}, nil
}

// Issue enrolls and returns the certificate with its issuers. With a current
// certificate it enrolls again, and anew if the server does not want that. It waits
// for at most ten minutes while the server says that the request is pending.
func (c *Client) Issue(ctx context.Context, r pki.Request) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var refused error
	if c.o.Reenroll && r.Current != nil {
		var chain []*x509.Certificate
		chain, refused = c.enroll(ctx, "/simplereenroll", r, func(context.Context) (*tls.Certificate, error) { return r.Current, nil })
		if refused == nil {
			return chain, nil
		}
	}
	chain, err := c.enroll(ctx, "/simpleenroll", r, c.o.Certificate)
	if err != nil {
		return nil, errors.Join(refused, err)
	}
	return chain, nil
}

func (c *Client) enroll(ctx context.Context, path string, r pki.Request, cert func(context.Context) (*tls.Certificate, error)) ([]*x509.Certificate, error) {
	client, err := c.client(ctx, cert)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	body := []byte(base64.StdEncoding.EncodeToString(r.CSR))
	for {
		certs, wait, err := c.do(ctx, client, http.MethodPost, path, body)
		if err != nil {
			return nil, fmt.Errorf("%s%s: %w", c.base, path, err)
		}
		if wait == 0 {
			return c.complete(ctx, client, r, certs)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%s%s: request is pending: %w", c.base, path, ctx.Err())
		}
	}
}

// complete finds the certificate for the request's key and puts its issuers behind
// it, as far as the server tells them.
func (c *Client) complete(ctx context.Context, client *http.Client, r pki.Request, certs []*x509.Certificate) ([]*x509.Certificate, error) {
	i := slices.IndexFunc(certs, func(x *x509.Certificate) bool { return pki.SameKey(x.PublicKey, r.Key.Public()) })
	if i < 0 {
		return nil, errors.New("EST server gave no certificate for the requested key")
	}
	above, _, err := c.do(ctx, client, http.MethodGet, "/cacerts", nil)
	if err != nil {
		return nil, fmt.Errorf("%s/cacerts: %w", c.base, err)
	}
	chain := []*x509.Certificate{certs[i]}
	pool := slices.Concat(certs, above)
	for {
		last := chain[len(chain)-1]
		next := slices.IndexFunc(pool, func(x *x509.Certificate) bool {
			return !slices.ContainsFunc(chain, x.Equal) && bytes.Equal(x.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(x) == nil
		})
		if next < 0 {
			return chain, nil
		}
		chain = append(chain, pool[next])
	}
}

func (c *Client) client(ctx context.Context, cert func(context.Context) (*tls.Certificate, error)) (*http.Client, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.o.RootCAs}
	if cert != nil {
		own, err := cert(ctx)
		if err != nil {
			return nil, fmt.Errorf("certificate to enroll with: %w", err)
		}
		// Whatever CAs the server names: it is to say itself if it does not want this.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: c.o.Dial, TLSHandshakeTimeout: 15 * time.Second, TLSClientConfig: cfg,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// do sends one request. A wait above 0 says that the request is pending.
func (c *Client) do(ctx context.Context, client *http.Client, method, path string, body []byte) ([]*x509.Certificate, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, 0, fmt.Errorf("request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/pkcs10")
		req.Header.Set("Content-Transfer-Encoding", "base64")
	}
	req.Header.Set("Accept", "application/pkcs7-mime")
	if c.o.UserAgent != "" {
		req.Header.Set("User-Agent", c.o.UserAgent)
	}
	if c.o.Username != "" {
		req.SetBasicAuth(c.o.Username, c.o.Password)
	}
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error // repeats method and URL, which the caller adds
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("read answer: %w", err)
	case len(raw) > maxBody:
		return nil, 0, fmt.Errorf("answer is longer than %d bytes", maxBody)
	case resp.StatusCode == http.StatusAccepted:
		return nil, pause(resp.Header.Get("Retry-After")), nil
	case resp.StatusCode != http.StatusOK:
		return nil, 0, &Error{Status: resp.StatusCode, Text: excerpt(resp.Header, raw)}
	}
	certs, err := parseCerts(raw)
	return certs, 0, err
}

func pause(header string) time.Duration {
	n, err := strconv.Atoi(header)
	if err != nil || n < 0 || n > int(maxPause/time.Second) {
		return maxPause
	}
	return max(minPause, time.Duration(n)*time.Second)
}

// excerpt returns the begin of a text answer in one line.
func excerpt(header http.Header, raw []byte) string {
	if !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
		return ""
	}
	text := strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, string(raw))), " ")
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "")
	}
	return text
}

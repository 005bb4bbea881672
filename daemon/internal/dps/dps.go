// Package dps registers the device at the device provisioning service, by its REST
// API (spec security-daemon 9.5, iothub-service 16). The service says which hub the
// device belongs to and what it is called there.
package dps

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

	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

const (
	apiVersion = "2021-06-01"
	// maxBody bounds an answer; the custom payload of a registration is far smaller.
	maxBody = 1 << 20
	// tokenLife covers a registration with all its polls.
	tokenLife = time.Hour
	// Between polls, unless the service says otherwise, and what it may say.
	defaultPoll, minPoll, maxPoll = 5 * time.Second, time.Second, 2 * time.Minute
	// assignLimit is how long the service may go on assigning.
	assignLimit = 10 * time.Minute
	// attempts bounds how often one request is sent when the service is not there or
	// asks to wait; the caller decides about longer outages.
	attempts = 4
)

// Endorser is a TPM as far as registering goes; *tpm.TPM is one.
type Endorser interface {
	// PublicKeys returns the endorsement key and the storage root key, each as a
	// TPM2B_PUBLIC.
	PublicKeys() (endorsement, storageRoot []byte, err error)
	// Import makes the key that the service has wrapped for this TPM the one that
	// Sign uses.
	Import(blob []byte) error
	// Sign returns the HMAC-SHA256 of data with the imported key.
	Sign(data []byte) ([]byte, error)
}

// Options configures New. Exactly one of Sign, Certificate and TPM is needed.
type Options struct {
	// Endpoint is the service's URL, https and without a path.
	Endpoint                string
	IDScope, RegistrationID string
	// Sign signs tokens with the symmetric key of the registration.
	Sign func(data []byte) ([]byte, error)
	// Certificate returns the client certificate.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	TPM         Endorser
	// Payload returns JSON to send along; nil for none.
	Payload func(context.Context) (json.RawMessage, error)
	// RootCAs are trusted; nil means those of the system.
	RootCAs *x509.CertPool
	// Timeout limits one request; 0 means 70 s.
	Timeout   time.Duration
	UserAgent string
	// Dial replaces the dialer and the proxy of the environment, for tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Assignment is what the service has decided.
type Assignment struct {
	Hub, DeviceID, Substatus string
	// Payload is the service's answer to the payload, if any.
	Payload json.RawMessage
}

// Client registers one device. It is safe for concurrent use, but two
// registrations at a time make no sense.
type Client struct {
	o    Options
	base string
	http *http.Client
}

// New makes a client; it does not connect.
func New(o Options) (*Client, error) {
	n := 0
	for _, has := range []bool{o.Sign != nil, o.Certificate != nil, o.TPM != nil} {
		if has {
			n++
		}
	}
	switch {
	case n != 1:
		return nil, errors.New("dps client: needs one kind of credential")
	case o.IDScope == "" || o.RegistrationID == "":
		return nil, errors.New("dps client: no id scope or registration id")
	}
	if o.Timeout == 0 {
		o.Timeout = 70 * time.Second
	}
	base, err := url.Parse(o.Endpoint)
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, errors.New("dps client: endpoint is no https URL")
	}
	var proxy func(*http.Request) (*url.URL, error)
	if o.Dial == nil {
		proxy = http.ProxyFromEnvironment
		o.Dial = (&net.Dialer{Timeout: 15 * time.Second}).DialContext
	}
	return &Client{o: o, base: strings.TrimRight(o.Endpoint, "/"), http: &http.Client{
		Transport: &http.Transport{
			Proxy: proxy, DialContext: o.Dial, TLSHandshakeTimeout: 15 * time.Second,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs, GetClientCertificate: o.Certificate},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close frees idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request is the body of a registration.
type request struct {
	RegistrationID string          `json:"registrationId"`
	Payload        json.RawMessage `json:"payload,omitempty"`
	TPM            *tpmKeys        `json:"tpm,omitempty"`
}

type tpmKeys struct {
	EndorsementKey []byte `json:"endorsementKey"`
	StorageRootKey []byte `json:"storageRootKey"`
}

// Register registers the device and waits until the service has assigned it. The
// error wraps ErrUnavailable when trying again later may help, and *Error when the
// service has answered with one.
func (c *Client) Register(ctx context.Context) (Assignment, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, assignLimit, errSlow)
	defer cancel()
	out, err := c.register(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errSlow) {
		err = errors.Join(errSlow, err)
	}
	if err != nil {
		return Assignment{}, fmt.Errorf("register %s at %s: %w", c.o.RegistrationID, c.base, err)
	}
	return out, nil
}

var errSlow = fmt.Errorf("%w: no assignment within %s", ErrUnavailable, assignLimit)

func (c *Client) register(ctx context.Context) (Assignment, error) {
	body := request{RegistrationID: c.o.RegistrationID}
	var err error
	if c.o.Payload != nil {
		if body.Payload, err = c.o.Payload(ctx); err != nil {
			return Assignment{}, fmt.Errorf("payload: %w", err)
		}
	}
	if c.o.TPM != nil {
		if body.TPM, err = c.endorse(); err != nil {
			return Assignment{}, err
		}
		if err := c.challenge(ctx, body); err != nil {
			return Assignment{}, err
		}
	}
	answer, wait, err := c.do(ctx, http.MethodPut, "/register", body, true)
	if err != nil {
		return Assignment{}, err
	}
	if answer.OperationID == "" && !answer.final() {
		return Assignment{}, errors.New("answer holds no operation id")
	}
	operation := "/operations/" + url.PathEscape(answer.OperationID)
	for !answer.final() {
		if err := sleep(ctx, wait); err != nil {
			return Assignment{}, err
		}
		if answer, wait, err = c.do(ctx, http.MethodGet, operation, nil, true); err != nil {
			return Assignment{}, err
		}
	}
	return c.assigned(answer)
}

func (c *Client) endorse() (*tpmKeys, error) {
	ek, srk, err := c.o.TPM.PublicKeys()
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return &tpmKeys{EndorsementKey: ek, StorageRootKey: srk}, nil
}

// challenge lets the service prove the TPM: it answers an unsigned request with a
// key that only this TPM can unwrap.
func (c *Client) challenge(ctx context.Context, body request) error {
	_, _, err := c.do(ctx, http.MethodPut, "/register", body, false)
	var refused *Error
	switch {
	case err == nil:
		return errors.New("the service registers without having seen the TPM's proof")
	case !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized || len(refused.challenge) == 0:
		return err
	}
	if err := c.o.TPM.Import(refused.challenge); err != nil {
		return fmt.Errorf("tpm: import authentication key: %w", err)
	}
	return nil
}

// assigned turns a final answer into the assignment.
func (c *Client) assigned(a answer) (Assignment, error) {
	s := a.State
	if a.Status != statusAssigned {
		e := &Error{Status: http.StatusOK, State: a.Status, Code: s.ErrorCode, Message: s.ErrorMessage}
		return Assignment{}, e
	}
	if s.AssignedHub == "" || s.DeviceID == "" {
		return Assignment{}, errors.New("assignment names no hub or no device")
	}
	if c.o.TPM != nil && s.TPM != nil && len(s.TPM.AuthenticationKey) > 0 {
		if err := c.o.TPM.Import(s.TPM.AuthenticationKey); err != nil {
			return Assignment{}, fmt.Errorf("tpm: import identity key: %w", err)
		}
	}
	return Assignment{Hub: s.AssignedHub, DeviceID: s.DeviceID, Substatus: s.Substatus, Payload: s.Payload}, nil
}

// do sends one request, again if the service is not there or asks to wait, and
// returns its answer and how long to wait before the next one.
func (c *Client) do(ctx context.Context, method, path string, body any, sign bool) (answer, time.Duration, error) {
	for n := 1; ; n++ {
		a, wait, err := c.send(ctx, method, path, body, sign)
		if err == nil {
			return a, wait, nil
		}
		var refused *Error
		temporary := !errors.As(err, &refused) && errors.Is(err, ErrUnavailable) || (refused != nil && refused.Temporary())
		if !temporary || n == attempts || ctx.Err() != nil {
			return answer{}, 0, err
		}
		pause := time.Second << n
		pause = pause/2 + rand.N(pause)
		if refused != nil && refused.RetryAfter > pause {
			pause = min(refused.RetryAfter, maxPoll)
		}
		if serr := sleep(ctx, pause); serr != nil {
			return answer{}, 0, errors.Join(serr, err)
		}
	}
}

func (c *Client) send(ctx context.Context, method, path string, body any, sign bool) (answer, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return answer{}, 0, fmt.Errorf("encode: %w", err)
		}
	}
	target := c.base + "/" + url.PathEscape(c.o.IDScope) + "/registrations/" + url.PathEscape(c.o.RegistrationID) + path + "?api-version=" + apiVersion
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(text))
	if err != nil {
		return answer{}, 0, fmt.Errorf("request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	if c.o.UserAgent != "" {
		req.Header.Set("User-Agent", c.o.UserAgent)
	}
	if sign && c.o.Certificate == nil {
		token, err := c.token()
		if err != nil {
			return answer{}, 0, err
		}
		req.Header.Set("Authorization", token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error // repeats method and URL, which the caller has
		if errors.As(err, &u) {
			err = u.Err
		}
		return answer{}, 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return answer{}, 0, fmt.Errorf("%w: read answer: %w", ErrUnavailable, err)
	case len(raw) > maxBody:
		return answer{}, 0, fmt.Errorf("answer is longer than %d bytes", maxBody)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return answer{}, 0, parseError(resp.StatusCode, resp.Header, raw)
	}
	a, err := parseAnswer(raw)
	if err != nil {
		return answer{}, 0, err
	}
	wait := defaultPoll
	if s := retryAfter(resp.Header); s > 0 {
		wait = min(max(s, minPoll), maxPoll)
	}
	return a, wait, nil
}

func (c *Client) token() (string, error) {
	sign := c.o.Sign
	if c.o.TPM != nil {
		sign = c.o.TPM.Sign
	}
	return sas.New(sas.RegistrationResource(c.o.IDScope, c.o.RegistrationID), time.Now().Add(tokenLife), "registration", sign)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Package pkcs11 uses keys on a PKCS#11 token (spec security-daemon 10). The library
// of the token's maker runs in a program of its own, edged-pkcs11, which the daemon
// starts and speaks to over pipes: a crash in such a library ends that program and
// one operation, not the daemon. PINs go over the pipe only.
//
// The helper is started when it is first needed, and again after it has ended. Its
// stdin is its life line: it ends when the daemon does.
package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Limits of one operation, and of the pauses while the helper keeps ending.
const (
	defaultTimeout           = 30 * time.Second
	firstPause, longestPause = time.Second, time.Minute
)

// Options configures New. Program and Library are needed, and Log.
type Options struct {
	// Program is the path of the helper, Library that of the PKCS#11 library.
	Program, Library string
	// Timeout limits one operation; 0 means 30 s. A helper that takes longer is ended.
	Timeout time.Duration
	Log     *slog.Logger
}

// Token is access to the tokens of one library. Methods may be called concurrently;
// operations run one after the other.
type Token struct {
	opt  Options
	turn chan struct{} // holds one token; who has it owns the rest

	helper *helper // nil: not running
	pause  time.Duration
	rest   time.Time // no new helper before
	closed bool
}

// ErrClosed is returned after Close.
var ErrClosed = errors.New("pkcs11: closed")

// New makes a Token; it starts nothing. Call Close when done.
func New(opt Options) *Token {
	if opt.Timeout == 0 {
		opt.Timeout = defaultTimeout
	}
	t := &Token{opt: opt, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	return t
}

// Close ends the helper and waits for it.
func (t *Token) Close() {
	<-t.turn
	defer func() { t.turn <- struct{}{} }()
	t.closed = true
	if t.helper != nil {
		t.helper.end()
		t.helper = nil
	}
}

// call sends one request and returns the answer.
func (t *Token) call(ctx context.Context, r Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, t.opt.Timeout)
	defer cancel()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("pkcs11 %s: %w", r.Op, ctx.Err())
	case <-t.turn:
	}
	defer func() { t.turn <- struct{}{} }()
	if err := t.start(); err != nil {
		return nil, fmt.Errorf("pkcs11 %s: %w", r.Op, err)
	}
	answer, err := t.helper.ask(ctx, r)
	if err != nil {
		// What it is doing is unknown: the next operation gets a new one.
		t.helper.kill()
		t.helper = nil
		t.pause = min(max(2*t.pause, firstPause), longestPause)
		t.rest = time.Now().Add(t.pause)
		return nil, fmt.Errorf("pkcs11 %s: %w", r.Op, err)
	}
	t.pause = 0
	if answer.Error != "" {
		return nil, fmt.Errorf("pkcs11 %s: %s", r.Op, answer.Error)
	}
	return answer.Result, nil
}

// start makes sure that a helper runs.
func (t *Token) start() error {
	switch {
	case t.closed:
		return ErrClosed
	case t.helper != nil && t.helper.running():
		return nil
	case t.helper != nil:
		t.helper.kill()
		t.helper = nil
	case time.Now().Before(t.rest):
		return fmt.Errorf("helper has ended, and is not started again for %s", time.Until(t.rest).Round(time.Millisecond))
	}
	h, err := startHelper(t.opt)
	if err != nil {
		return err
	}
	t.helper = h
	return nil
}

// HMAC returns the HMAC-SHA256 of data with the secret key of a URI.
func (t *Token) HMAC(ctx context.Context, uri string, data []byte) ([]byte, error) {
	key, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	return t.call(ctx, Request{Op: OpHMAC, Key: key, Data: data})
}

// Signer returns the private key of a URI, RSA or ECDSA.
func (t *Token) Signer(ctx context.Context, uri string) (crypto.Signer, error) {
	key, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	return t.signer(ctx, OpPublic, key)
}

// Generate returns the RSA key of that name on the token of a URI, and makes it if
// there is none. Without a name it is the key of the URI. It cannot be read out of the
// token.
func (t *Token) Generate(ctx context.Context, uri, name string) (crypto.Signer, error) {
	key, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	if name != "" {
		key.Object, key.ID = name, nil
	}
	return t.signer(ctx, OpGenerate, key)
}

func (t *Token) signer(ctx context.Context, op string, key URI) (crypto.Signer, error) {
	der, err := t.call(ctx, Request{Op: op, Key: key})
	if err != nil {
		return nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("pkcs11 %s: public key: %w", op, err)
	}
	switch pub.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return &signer{token: t, key: key, public: pub}, nil
	}
	return nil, fmt.Errorf("pkcs11 %s: keys of type %T are not used", op, pub)
}

// signer is a private key on a token.
type signer struct {
	token  *Token
	key    URI
	public crypto.PublicKey
}

// Public returns the public key.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs a digest; the token makes the random numbers. It takes as long as an
// operation of the token may.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	scheme := SchemeECDSA
	if _, ok := s.public.(*rsa.PublicKey); ok {
		scheme = SchemePKCS1
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			scheme = SchemePSS
			if n := pss.SaltLength; n > 0 && n != opts.HashFunc().Size() {
				return nil, errors.New("pkcs11 sign: salt is not as long as the digest")
			}
		}
	}
	return s.token.call(context.Background(), Request{
		Op: OpSign, Key: s.key, Scheme: scheme, Hash: uint(opts.HashFunc()), Digest: digest,
	})
}

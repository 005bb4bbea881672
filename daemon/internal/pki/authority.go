// Package pki is the device's certificate authority: the Edge CA that signs the
// certificates of modules, and the trust bundle that clients of this device use.
//
// The Edge CA is either the operator's (files named in config.toml) or made here
// ("quick start": self-signed, 90 days, renewed at 80 % of its life). The quick
// start CA and its key are one file, keys/edge_ca.pem, mode 0600, so that a crash
// cannot part them; certs/edge_ca.pem is a copy of the certificate for people who
// set up leaf devices.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/atomicfile"
)

const (
	rsaBits    = 2048
	renewShare = 0.80 // of the CA's life, then it is renewed
	retryShare = 0.04 // of the CA's life, between failed renewals
)

// Options says where the Edge CA comes from.
type Options struct {
	// DeviceID is part of the quick start CA's name.
	DeviceID string
	// CertFile and KeyFile name an operator's CA: PEM, the CA's certificate first
	// and what stands above it after. Both or neither.
	CertFile, KeyFile string
	// Dir is the daemon's home directory; keys/ and certs/ are below it.
	Dir string
	// Days is the life of a quick start CA.
	Days int
	// UserBundle holds further PEM certificates for the trust bundle; may be empty.
	UserBundle []byte
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Authority issues certificates. It is safe for concurrent use.
type Authority struct {
	opt Options

	mu    sync.RWMutex
	chain []*x509.Certificate // Edge CA, then its issuers
	key   crypto.Signer
}

// Open loads the Edge CA, or makes a quick start CA when there is none, when it
// was made for another device, when it is damaged, or when its renewal is due. An
// operator's CA is never replaced: what is wrong with it is an error.
func Open(opt Options) (*Authority, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	a := &Authority{opt: opt}
	if opt.CertFile != "" || opt.KeyFile != "" {
		return a, a.loadPreloaded()
	}
	err := a.loadQuickStart()
	if err == nil && a.opt.Now().Before(a.RenewAt()) {
		return a, nil
	}
	if err != nil && !errors.Is(err, errUnusable) && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return a, a.Renew()
}

// SelfMade tells whether the CA is a quick start one, which Renew may replace.
func (a *Authority) SelfMade() bool { return a.opt.CertFile == "" && a.opt.KeyFile == "" }

// Certificate returns the Edge CA's certificate.
func (a *Authority) Certificate() *x509.Certificate {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.chain[0]
}

// RenewAt returns when a quick start CA is due for renewal: at 80 % of its life.
func (a *Authority) RenewAt() time.Time {
	c := a.Certificate()
	return c.NotBefore.Add(time.Duration(renewShare * float64(c.NotAfter.Sub(c.NotBefore))))
}

// RetryAfter returns the pause after a failed renewal: 4 % of the CA's life, at
// least a second.
func (a *Authority) RetryAfter() time.Duration {
	c := a.Certificate()
	return max(time.Second, time.Duration(retryShare*float64(c.NotAfter.Sub(c.NotBefore))))
}

// Renew makes a new quick start CA with a new key and stores it. Certificates
// issued before do not chain to it: restart the modules afterwards. On an error
// the old CA stays in use.
func (a *Authority) Renew() error {
	if !a.SelfMade() {
		return errors.New("the edge CA is the operator's and cannot be renewed here")
	}
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return fmt.Errorf("edge CA key: %w", err)
	}
	cert, err := a.selfSign(key)
	if err != nil {
		return err
	}
	if err := a.store(cert, key); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.chain, a.key = []*x509.Certificate{cert}, key
	return nil
}

func (a *Authority) selfSign(key *rsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := a.opt.Now().UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: a.commonName()},
		NotBefore:             now,
		NotAfter:              now.AddDate(0, 0, a.opt.Days),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign edge CA: %w", err)
	}
	return x509.ParseCertificate(der)
}

func (a *Authority) commonName() string { return "aziot-edge CA " + a.opt.DeviceID }

func (a *Authority) keyPath() string  { return filepath.Join(a.opt.Dir, "keys", "edge_ca.pem") }
func (a *Authority) certPath() string { return filepath.Join(a.opt.Dir, "certs", "edge_ca.pem") }

func (a *Authority) store(cert *x509.Certificate, key crypto.Signer) error {
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	for path, mode := range map[string]fs.FileMode{a.keyPath(): 0o700, a.certPath(): 0o755} {
		dir := filepath.Dir(path)
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
		if err := os.Chmod(dir, mode); err != nil { // whatever the umask
			return fmt.Errorf("create directory: %w", err)
		}
	}
	certPEM := encodeCerts(cert)
	if err := atomicfile.Write(a.keyPath(), append(keyPEM, certPEM...), 0o600); err != nil {
		return fmt.Errorf("store edge CA: %w", err)
	}
	if err := atomicfile.Write(a.certPath(), certPEM, 0o644); err != nil {
		return fmt.Errorf("store edge CA certificate: %w", err)
	}
	return nil
}

// errUnusable marks a quick start CA that is to be made anew.
var errUnusable = errors.New("edge CA unusable")

func (a *Authority) loadQuickStart() error {
	data, err := os.ReadFile(a.keyPath())
	if err != nil {
		return fmt.Errorf("read edge CA: %w", err)
	}
	chain, key, err := parsePair(data, data)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	if chain[0].Subject.CommonName != a.commonName() {
		return fmt.Errorf("%w: made for another device", errUnusable)
	}
	a.chain, a.key = chain, key
	return nil
}

func (a *Authority) loadPreloaded() error {
	if a.opt.CertFile == "" || a.opt.KeyFile == "" {
		return errors.New("edge CA: certificate and key are needed together")
	}
	certPEM, err := os.ReadFile(a.opt.CertFile)
	if err != nil {
		return fmt.Errorf("read edge CA certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(a.opt.KeyFile)
	if err != nil {
		return fmt.Errorf("read edge CA key: %w", err)
	}
	chain, key, err := parsePair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("edge CA: %w", err)
	}
	if now := a.opt.Now(); now.After(chain[0].NotAfter) {
		return fmt.Errorf("edge CA: certificate expired on %s", chain[0].NotAfter.Format(time.RFC3339))
	}
	a.chain, a.key = chain, key
	return nil
}

// parsePair reads a CA and its key, and checks that they belong together and that
// the certificate may sign others.
func parsePair(certPEM, keyPEM []byte) ([]*x509.Certificate, crypto.Signer, error) {
	chain, err := ParseCertificates(certPEM)
	if err != nil {
		return nil, nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, nil, err
	}
	if !samePublicKey(key.Public(), chain[0].PublicKey) {
		return nil, nil, errors.New("key does not belong to the certificate")
	}
	if !chain[0].IsCA || (chain[0].KeyUsage != 0 && chain[0].KeyUsage&x509.KeyUsageCertSign == 0) {
		return nil, nil, errors.New("certificate is not that of a CA")
	}
	return chain, key, nil
}

func samePublicKey(a, b crypto.PublicKey) bool {
	switch k := a.(type) {
	case *rsa.PublicKey:
		return k.Equal(b)
	case *ecdsa.PublicKey:
		return k.Equal(b)
	}
	return false
}

// ParseCertificates reads all certificates of a PEM text; other blocks are
// skipped. No certificate at all is an error.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no PEM certificate found")
	}
	return out, nil
}

func parseKey(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, errors.New("private key is malformed")
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, errors.New("private key of an unsupported kind")
	}
	return nil, errors.New("no PEM private key found")
}

func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, always 16 bytes
	return new(big.Int).SetBytes(b), nil
}

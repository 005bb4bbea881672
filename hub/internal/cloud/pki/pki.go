// Package pki makes the certificates of the local hub: a root that clients are
// told to trust, and a server certificate under it for all names of the hub, which
// is renewed while the hub runs.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// Names of the files in the data directory.
const (
	RootFile   = "root.pem"
	rootKey    = "root.key"
	serverFile = "server.pem"
	serverKey  = "server.key"
)

const (
	rootLife   = 10 * 365 * 24 * time.Hour
	serverLife = 397 * 24 * time.Hour
	// renewBefore is how long before its end the server certificate is replaced.
	renewBefore = 30 * 24 * time.Hour
	clockSlack  = time.Hour
)

// Server gives out the server certificate. It may be used concurrently.
type Server struct {
	dir   string
	names []string
	now   func() time.Time
	root  *x509.Certificate
	key   *ecdsa.PrivateKey

	mu      sync.Mutex
	current *tls.Certificate
}

// Open reads root and server certificate in dir and makes what is missing, has
// run out, or is not for these names (host names and IP addresses).
func Open(dir string, names []string, now func() time.Time) (*Server, error) {
	if now == nil {
		now = time.Now
	}
	s := &Server{dir: dir, names: names, now: now}
	if err := s.openRoot(); err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, serverFile), filepath.Join(dir, serverKey))
	switch {
	case err == nil && s.good(pair.Leaf):
		s.current = &pair
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	// Whatever else is wrong with the pair (a crash may leave half of it), a new
	// one is as good.
	if _, err := s.certificate(nil); err != nil {
		return nil, err
	}
	return s, nil
}

// TLS returns the configuration for listeners: TLS 1.2 at least, and a client
// certificate is asked for but neither required nor checked against any root,
// because devices register thumbprints.
func (s *Server) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: s.certificate,
		ClientAuth:     tls.RequestClientCert,
	}
}

// Root returns the root certificate.
func (s *Server) Root() *x509.Certificate { return s.root }

func (s *Server) openRoot() error {
	certPath, keyPath := filepath.Join(s.dir, RootFile), filepath.Join(s.dir, rootKey)
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Stat(certPath); statErr == nil {
			return fmt.Errorf("%s is there but %s is not", RootFile, rootKey)
		}
		return s.newRoot(certPath, keyPath)
	}
	if err != nil {
		return err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return fmt.Errorf("%s is not one of this program", RootFile)
	}
	if s.now().After(pair.Leaf.NotAfter) {
		return fmt.Errorf("%s ran out on %s; remove it and %s to get a new one", RootFile, pair.Leaf.NotAfter.Format(time.DateOnly), rootKey)
	}
	s.root, s.key = pair.Leaf, key
	return nil
}

func (s *Server) newRoot(certPath, keyPath string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Breakwater local hub root"},
		NotBefore:             s.now().Add(-clockSlack),
		NotAfter:              s.now().Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, _, err := s.issue(template, template, key, key)
	if err != nil {
		return err
	}
	// The key first: a root without its key cannot be repaired.
	if err := writeKey(keyPath, key); err != nil {
		return err
	}
	s.root, s.key = cert, key
	return atomicfile.Write(certPath, encode(cert), 0o644)
}

func (s *Server) issue(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, []byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template.SerialNumber = serial
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	return cert, raw, err
}

func (s *Server) fresh(leaf *x509.Certificate) bool {
	return s.now().Before(leaf.NotAfter.Add(-renewBefore))
}

// good tells whether a server certificate is still ours to use.
func (s *Server) good(leaf *x509.Certificate) bool {
	if leaf == nil || leaf.CheckSignatureFrom(s.root) != nil || !s.fresh(leaf) {
		return false
	}
	return !slices.ContainsFunc(s.names, func(n string) bool { return leaf.VerifyHostname(n) != nil })
}

// certificate is tls.Config.GetCertificate.
func (s *Server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && s.fresh(s.current.Leaf) {
		return s.current, nil
	}
	next, err := s.newServer()
	if err != nil {
		if s.current != nil {
			return s.current, nil // better an old one than none
		}
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	s.current = next
	return next, nil
}

func (s *Server) newServer() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName(s.names[0])},
		NotBefore:   s.now().Add(-clockSlack),
		NotAfter:    s.now().Add(serverLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if template.NotAfter.After(s.root.NotAfter) {
		template.NotAfter = s.root.NotAfter
	}
	for _, n := range s.names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	cert, raw, err := s.issue(template, s.root, key, s.key)
	if err != nil {
		return nil, err
	}
	if err := writeKey(filepath.Join(s.dir, serverKey), key); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(s.dir, serverFile), encode(cert), 0o644); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: cert}, nil
}

// commonName cuts what X.509 does not allow to be longer; the SAN has it whole.
func commonName(n string) string { return n[:min(len(n), 64)] }

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

package pki

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// leafDays is how many days a module's certificate lives, unless the Edge CA ends
// earlier (spec security-daemon 3.3).
const leafDays = 30

// Leaf is what a certificate of a module is like, where it is not as usual.
type Leaf struct {
	// Days is its life; 0 means 30. It ends with the Edge CA in any case.
	Days int
	// Subject replaces its name; its alternative names stay. Nil means the usual one.
	Subject *pkix.Name
}

// LeafID names the certificates of a module: those for servers, or those that identify
// it.
func LeafID(module string, server bool) string {
	if server {
		return module + ":server"
	}
	return module + ":identity"
}

// ErrCommonName says that no certificate can be made for a requested name.
var ErrCommonName = errors.New("common name is not usable")

// Issued is a fresh certificate and its key, both PEM. KeyPEM is a secret (PKCS#8)
// that is kept nowhere else.
type Issued struct {
	KeyPEM   string
	ChainPEM string // leaf, Edge CA, and what stands above it
	NotAfter time.Time
}

// Server issues a certificate for TLS servers: the common name is also a subject
// alternative name (address or host name), and so is the module's name without
// its leading "$". The error wraps ErrCommonName for an unusable name.
func (a *Authority) Server(module, commonName string) (Issued, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	switch ip := net.ParseIP(commonName); {
	case ip != nil:
		template.IPAddresses = []net.IP{ip}
	case isHostName(commonName):
		template.DNSNames = []string{commonName}
	default:
		return Issued{}, fmt.Errorf("%w: neither an address nor a host name", ErrCommonName)
	}
	// Module names may hold characters that a host name cannot: no SAN then.
	if name := strings.TrimPrefix(module, "$"); isHostName(name) && !strings.EqualFold(name, commonName) {
		template.DNSNames = append(template.DNSNames, name)
	}
	return a.issue(LeafID(module, true), template)
}

// Identity issues a certificate for TLS clients: common name the module id, and
// the URI azureiot://hub/devices/device/modules/module as subject alternative
// name.
func (a *Authority) Identity(hub, device, module string) (Issued, error) {
	if module == "" {
		return Issued{}, fmt.Errorf("%w: empty", ErrCommonName)
	}
	return a.issue(LeafID(module, false), &x509.Certificate{
		Subject:     pkix.Name{CommonName: module},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{{
			Scheme: "azureiot", Host: hub,
			Path: "/devices/" + device + "/modules/" + module,
		}},
	})
}

func (a *Authority) issue(id string, template *x509.Certificate) (Issued, error) {
	chain, caKey := a.pair()
	if len(chain) == 0 {
		return Issued{}, fmt.Errorf("edge CA: %w", ErrNone)
	}
	now := a.opt.Now().UTC().Truncate(time.Second)
	if !now.Before(chain[0].NotAfter) {
		return Issued{}, fmt.Errorf("edge CA expired on %s", chain[0].NotAfter.Format(time.RFC3339))
	}
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return Issued{}, fmt.Errorf("certificate key: %w", err)
	}
	if template.SerialNumber, err = newSerial(); err != nil {
		return Issued{}, err
	}
	leaf := a.opt.Leaves[id]
	if leaf.Subject != nil {
		template.Subject = *leaf.Subject
	}
	template.NotBefore = now
	template.NotAfter = now.Add(time.Duration(cmp.Or(leaf.Days, leafDays)) * 24 * time.Hour)
	if template.NotAfter.After(chain[0].NotAfter) {
		template.NotAfter = chain[0].NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, chain[0], key.Public(), caKey)
	if err != nil {
		return Issued{}, fmt.Errorf("sign certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Issued{}, err
	}
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return Issued{
		KeyPEM:   string(keyPEM),
		ChainPEM: string(own) + string(encodeCerts(chain...)),
		NotAfter: template.NotAfter,
	}, nil
}

// TrustBundle returns the PEM certificates that clients of this device trust: the
// edge CA with what stands above it, CAs before it that have not ended, then the
// operator's bundle.
func (a *Authority) TrustBundle() string {
	chain, _ := a.pair()
	a.mu.RLock()
	retired := a.live(a.retired)
	a.mu.RUnlock()
	retired = slices.DeleteFunc(retired, func(c *x509.Certificate) bool { return slices.ContainsFunc(chain, c.Equal) })
	out := encodeCerts(slices.Concat(chain, retired)...)
	if user := bytes.TrimSpace(a.opt.UserBundle); len(user) > 0 {
		out = append(append(out, user...), '\n')
	}
	return string(out)
}

// isHostName accepts what may stand in a DNS name: labels of letters, digits, "-"
// and "_", of at most 63 bytes, 253 in all; a first label "*" is accepted too.
func isHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i, label := range strings.Split(s, ".") {
		if i == 0 && label == "*" && len(s) > 1 {
			continue
		}
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			return false
		}
	}
	return true
}

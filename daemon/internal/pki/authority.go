// Package pki is the device's certificate authority: the edge CA that signs the
// certificates of modules, and the trust bundle that clients of this device use. It
// also holds the certificates that others issue to the device.
//
// The edge CA is the operator's (files named in config.toml), or is issued by an EST
// server or a local CA, or signs itself ("quick start": 90 days, renewed at 80 % of
// its life). Issued ones are in keys/edge_ca.pem, with their key, and
// certs/edge_ca.pem, a copy for people who set up leaf devices. After a renewal the
// certificates of the CA before stay in the trust bundle, and in
// certs/edge_ca_retired.pem, until they end.
package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/renewal"
	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// Options says where the edge CA comes from.
type Options struct {
	// DeviceID is part of the edge CA's name, unless Subject has one.
	DeviceID string
	Subject  pkix.Name
	// Preloaded reads an operator's CA: the CA's certificate first and what stands
	// above it after, and its key. Nil means that Issuer issues it.
	Preloaded func(ctx context.Context) ([]*x509.Certificate, crypto.Signer, error)
	// Issuer makes the CA; nil means that it signs itself.
	Issuer Issuer
	// TokenKey, Vault, Policy: see HolderOptions. The zero policy is the default one.
	TokenKey func(ctx context.Context) (crypto.Signer, error)
	Vault    Vault
	Policy   renewal.Policy
	// Dir is the daemon's home directory; keys/ and certs/ are below it.
	Dir string
	// Days is the life of the CA, where the issuer lets one choose.
	Days int
	// Leaves say what certificates of modules are like that are not as usual, by
	// LeafID.
	Leaves map[string]Leaf
	// UserBundle holds further PEM certificates for the trust bundle; may be empty.
	UserBundle []byte
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Authority issues certificates. It is safe for concurrent use.
type Authority struct {
	opt    Options
	holder *Holder // nil with an operator's CA

	mu      sync.RWMutex
	chain   []*x509.Certificate // an operator's CA
	key     crypto.Signer
	retired []*x509.Certificate // of CAs before this one
}

// Open loads the edge CA. One that signs itself is made when there is none, when it
// was made for another device, when it is damaged, or when its renewal is due. One
// that an issuer makes may be missing afterwards, or due: Renew gets it. An
// operator's CA is never replaced: what is wrong with it is an error, except that
// it has expired, which must not keep the modules from running.
func Open(ctx context.Context, opt Options) (*Authority, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Policy == (renewal.Policy{}) {
		opt.Policy = renewal.Default()
	}
	a := &Authority{opt: opt}
	if opt.Preloaded != nil {
		return a, a.loadPreloaded(ctx)
	}
	selfMade := opt.Issuer == nil
	if selfMade {
		a.opt.Issuer = SelfSigner{}
	}
	if opt.Subject.CommonName == "" {
		a.opt.Subject.CommonName = "aziot-edge CA " + opt.DeviceID
	}
	var err error
	a.holder, err = OpenHolder(ctx, HolderOptions{
		Name: "edge_ca", Dir: opt.Dir, Issuer: a.opt.Issuer, Policy: opt.Policy, TokenKey: opt.TokenKey, Vault: opt.Vault, Now: opt.Now,
		Template: Template{Subject: a.opt.Subject, CA: true, Days: opt.Days},
	})
	if err != nil {
		return nil, err
	}
	if err := a.loadRetired(); err != nil {
		return nil, err
	}
	if selfMade && !opt.Now().Before(a.RenewAt()) {
		return a, a.Renew(ctx)
	}
	return a, nil
}

func (a *Authority) loadPreloaded(ctx context.Context) error {
	chain, key, err := a.opt.Preloaded(ctx)
	if err != nil {
		return fmt.Errorf("edge CA: %w", err)
	}
	if err := checkCA(chain, key); err != nil {
		return fmt.Errorf("edge CA: %w", err)
	}
	a.chain, a.key = chain, key
	return nil
}

// Renewable tells whether Renew may replace the CA: it is not the operator's.
func (a *Authority) Renewable() bool { return a.holder != nil }

func (a *Authority) pair() ([]*x509.Certificate, crypto.Signer) {
	if a.holder != nil {
		chain, key := a.holder.pair()
		return chain, key.Signer
	}
	return a.chain, a.key
}

// Dropped is Holder.Dropped of the edge CA.
func (a *Authority) Dropped() error {
	if a.holder == nil {
		return nil
	}
	return a.holder.Dropped()
}

// Certificate returns the edge CA's certificate; nil while no issuer has made it.
func (a *Authority) Certificate() *x509.Certificate {
	if chain, _ := a.pair(); len(chain) > 0 {
		return chain[0]
	}
	return nil
}

// RenewAt returns when the CA is due for renewal.
func (a *Authority) RenewAt() time.Time { return a.holder.RenewAt() }

// RetryAfter returns the pause after a failed renewal.
func (a *Authority) RetryAfter() time.Duration { return a.holder.RetryAfter() }

// Renew replaces the CA. Certificates issued before stay valid, because the old CA
// stays in the trust bundle until it ends. On an error the old CA stays in use.
func (a *Authority) Renew(ctx context.Context) error {
	if a.holder == nil {
		return errors.New("the edge CA is the operator's and cannot be renewed here")
	}
	before, _ := a.holder.pair()
	// First on disk, so that no crash loses what clients still need.
	if err := a.retire(before); err != nil {
		return err
	}
	return a.holder.Renew(ctx)
}

func (a *Authority) retiredPath() string {
	return filepath.Join(a.opt.Dir, "certs", "edge_ca_retired.pem")
}

func (a *Authority) loadRetired() error {
	data, err := os.ReadFile(a.retiredPath())
	if errors.Is(err, fs.ErrNotExist) || (err == nil && len(data) == 0) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("retired edge CAs: %w", err)
	}
	certs, err := ParseCertificates(data)
	if err != nil {
		return fmt.Errorf("retired edge CAs: %w", err)
	}
	a.retired = certs
	return nil
}

// retire keeps certificates that have not ended.
func (a *Authority) retire(certs []*x509.Certificate) error {
	a.mu.RLock()
	keep := a.live(slices.Concat(a.retired, certs))
	a.mu.RUnlock()
	if err := makeDir(filepath.Dir(a.retiredPath()), 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(a.retiredPath(), encodeCerts(keep...), 0o644); err != nil {
		return fmt.Errorf("retired edge CAs: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.retired = keep
	return nil
}

// live returns what of certs has not ended, each once.
func (a *Authority) live(certs []*x509.Certificate) []*x509.Certificate {
	var out []*x509.Certificate
	now := a.opt.Now()
	for _, c := range certs {
		if now.Before(c.NotAfter) && !slices.ContainsFunc(out, c.Equal) {
			out = append(out, c)
		}
	}
	return out
}

// Trusts tells whether clients that know only the PEM certificates of bundle accept
// what this CA issues, now and until it ends: they need no newer bundle.
func (a *Authority) Trusts(bundle string) bool {
	chain, _ := a.pair()
	if len(chain) == 0 {
		return true // nothing is issued
	}
	known, err := ParseCertificates([]byte(bundle))
	if err != nil {
		return false
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	end := chain[0].NotAfter
	for _, c := range chain[1:] {
		between.AddCert(c)
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	for _, c := range known {
		// The same CA with other dates: what it signs verifies against either, until that
		// ends.
		if bytes.Equal(c.RawSubject, chain[0].RawSubject) && SameKey(c.PublicKey, chain[0].PublicKey) && !c.NotAfter.Before(end) {
			return true
		}
		roots.AddCert(c)
	}
	for _, at := range []time.Time{a.opt.Now(), end} {
		if _, err := chain[0].Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		}); err != nil {
			return false
		}
	}
	return true
}

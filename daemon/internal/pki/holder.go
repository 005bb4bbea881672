package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
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

const rsaBits = 2048

// firstRetry is the pause after a failure to get the very first certificate.
const firstRetry = time.Minute

// Template says what certificate is wanted.
type Template struct {
	Subject pkix.Name
	// CA asks for a certificate that signs others; else it is one for TLS clients.
	CA bool
	// PathLen is how many CAs may be below a CA.
	PathLen int
	// Days is its life, where the issuer lets one choose.
	Days int
}

// HolderOptions configure OpenHolder. Name, Dir and Issuer are needed.
type HolderOptions struct {
	// Name names the files: keys/<Name>.pem with key and certificates, mode 0600, in
	// one file so that a crash cannot part them, and certs/<Name>.pem, a public copy.
	Name string
	// Dir is the daemon's home directory.
	Dir      string
	Issuer   Issuer
	Template Template
	Policy   renewal.Policy
	// TokenKey finds the key on a token, or makes it there; nil means that the key is
	// in the file. A key on a token is never rotated.
	TokenKey func(ctx context.Context) (crypto.Signer, error)
	// Vault makes the keys that are in the file; nil means that they are plain RSA keys.
	// A plain key that is there already is used until the certificate is renewed.
	Vault Vault
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Vault makes private keys that it alone can use, such as a TPM.
type Vault interface {
	// NewKey makes a key, and the PEM block that OpenKey finds it by.
	NewKey(ctx context.Context) (key crypto.Signer, block []byte, err error)
	// OpenKey finds the key of a block. The error wraps ErrKeyLost if that is in vain for
	// ever.
	OpenKey(ctx context.Context, block []byte) (crypto.Signer, error)
}

// ErrKeyLost says that the key of a certificate cannot be used any more.
var ErrKeyLost = errors.New("key is lost")

// Holder holds a certificate that an issuer makes for the daemon, with its key: on
// disk, in memory, and fresh. It may hold none yet. It is safe for concurrent use.
type Holder struct {
	opt HolderOptions

	renewing sync.Mutex // held during a renewal, before mu

	mu    sync.RWMutex
	chain []*x509.Certificate // empty: none yet
	key   privateKey
	// dropped is why what was on disk is not used; owned by OpenHolder.
	dropped error
}

// privateKey is a key, and its PEM block unless it is on a token.
type privateKey struct {
	crypto.Signer
	block []byte
	plain bool // whoever reads the block has the key
}

// ErrNone says that there is no certificate yet.
var ErrNone = errors.New("no certificate has been issued yet")

// OpenHolder reads what is on disk; it asks no issuer. A damaged file, or one for
// another subject, counts as none.
func OpenHolder(ctx context.Context, opt HolderOptions) (*Holder, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	h := &Holder{opt: opt}
	err := h.load(ctx)
	if err != nil && !errors.Is(err, errUnusable) && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("certificate %s: %w", opt.Name, err)
	}
	if errors.Is(err, errUnusable) {
		h.dropped = err
	}
	return h, nil
}

// Dropped returns why the certificate that was on disk when the holder was opened is not
// used; nil if it is, or if there was none.
func (h *Holder) Dropped() error { return h.dropped }

// errUnusable marks a file whose certificate is to be made anew.
var errUnusable = errors.New("certificate unusable")

func (h *Holder) load(ctx context.Context) error {
	data, err := os.ReadFile(h.keyPath())
	if err != nil {
		return err
	}
	chain, err := ParseCertificates(data)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	key, err := h.loadKey(ctx, data)
	if err != nil {
		return err
	}
	if err := h.fits(chain, key); err != nil {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	if chain[0].Subject.CommonName != h.opt.Template.Subject.CommonName {
		return fmt.Errorf("%w: made for another subject", errUnusable)
	}
	h.chain, h.key = chain, key
	return nil
}

func (h *Holder) loadKey(ctx context.Context, data []byte) (privateKey, error) {
	if h.opt.TokenKey != nil {
		key, err := h.opt.TokenKey(ctx)
		return privateKey{Signer: key}, err
	}
	key, err := ParseKey(data)
	if err == nil {
		return plainKey(key)
	}
	if h.opt.Vault == nil {
		return privateKey{}, fmt.Errorf("%w: %w", errUnusable, err)
	}
	block := keyBlock(data)
	key, err = h.opt.Vault.OpenKey(ctx, block)
	if errors.Is(err, ErrKeyLost) {
		return privateKey{}, fmt.Errorf("%w: %w", errUnusable, err)
	}
	return privateKey{Signer: key, block: block}, err
}

func plainKey(key crypto.Signer) (privateKey, error) {
	block, err := encodeKey(key)
	return privateKey{Signer: key, block: block, plain: true}, err
}

// fits tells whether a certificate is one that was asked for.
func (h *Holder) fits(chain []*x509.Certificate, key crypto.Signer) error {
	if h.opt.Template.CA {
		if err := checkCA(chain, key); err != nil {
			return err
		}
		if n := chain[0].MaxPathLen; n >= 0 && n < h.opt.Template.PathLen {
			return fmt.Errorf("its path length is %d, want %d at least", n, h.opt.Template.PathLen)
		}
		return nil
	}
	if !SameKey(key.Public(), chain[0].PublicKey) {
		return errors.New("key does not belong to the certificate")
	}
	return nil
}

// Chain returns the certificate and its issuers; none is an empty slice. It must
// not be changed.
func (h *Holder) Chain() []*x509.Certificate {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.chain
}

// Current returns the certificate for TLS; the error is ErrNone, or says that it
// has expired.
func (h *Holder) Current() (*tls.Certificate, error) {
	chain, key := h.pair()
	if len(chain) == 0 {
		return nil, ErrNone
	}
	if end := chain[0].NotAfter; !h.opt.Now().Before(end) {
		return nil, fmt.Errorf("certificate %s expired on %s", h.opt.Name, end.Format(time.RFC3339))
	}
	return tlsCertificate(chain, key.Signer), nil
}

// Obtain is Current, and gets a certificate from the issuer if none is valid.
func (h *Holder) Obtain(ctx context.Context) (*tls.Certificate, error) {
	before := h.Chain()
	if c, err := h.Current(); err == nil {
		return c, nil
	}
	if err := h.replace(ctx, before); err != nil {
		return nil, err
	}
	return h.Current()
}

// Load is for a LocalCA that is held: it returns the certificate with its issuers, and
// the key. One that is due is renewed first, lest what it issues end with it soon; if that
// fails, and the one that is there is valid, who renews it in time says why.
func (h *Holder) Load(ctx context.Context) ([]*x509.Certificate, crypto.Signer, error) {
	before := h.Chain()
	_, none := h.Current()
	if none != nil || !h.opt.Now().Before(h.RenewAt()) {
		if err := h.replace(ctx, before); err != nil && none != nil {
			return nil, nil, err
		}
	}
	chain, key := h.pair()
	return chain, key.Signer, nil
}

func (h *Holder) pair() ([]*x509.Certificate, privateKey) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.chain, h.key
}

// ClientCertificate makes a certificate for TLS of a chain and its key, which must
// belong together.
func ClientCertificate(chain []*x509.Certificate, key crypto.Signer) (*tls.Certificate, error) {
	if !SameKey(key.Public(), chain[0].PublicKey) {
		return nil, errors.New("key does not belong to the certificate")
	}
	return tlsCertificate(chain, key), nil
}

func tlsCertificate(chain []*x509.Certificate, key crypto.Signer) *tls.Certificate {
	c := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, x := range chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// RenewAt returns when the certificate is due; the zero time if there is none.
func (h *Holder) RenewAt() time.Time {
	chain := h.Chain()
	if len(chain) == 0 {
		return time.Time{}
	}
	return h.opt.Policy.Due(chain[0].NotBefore, chain[0].NotAfter)
}

// RetryAfter returns the pause after a failure.
func (h *Holder) RetryAfter() time.Duration {
	chain := h.Chain()
	if len(chain) == 0 {
		return firstRetry
	}
	return h.opt.Policy.RetryAfter(chain[0].NotBefore, chain[0].NotAfter)
}

// Renew gets a new certificate from the issuer and stores it. On an error the old
// one stays in use.
func (h *Holder) Renew(ctx context.Context) error { return h.replace(ctx, h.Chain()) }

// replace renews the certificate that its caller has found wanting, unless another call
// has done so meanwhile.
func (h *Holder) replace(ctx context.Context, before []*x509.Certificate) error {
	h.renewing.Lock()
	defer h.renewing.Unlock()
	chain, old := h.pair()
	if len(chain) > 0 && (len(before) == 0 || !chain[0].Equal(before[0])) {
		return nil
	}
	key, err := h.nextKey(ctx, old)
	if err != nil {
		return err
	}
	req, err := newRequest(h.opt.Template, key.Signer)
	if err != nil {
		return err
	}
	if len(chain) > 0 && h.opt.Now().Before(chain[0].NotAfter) {
		req.Current = tlsCertificate(chain, old.Signer)
	}
	req.Now = h.opt.Now().UTC().Truncate(time.Second)
	fresh, err := h.opt.Issuer.Issue(ctx, req)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", h.opt.Name, err)
	}
	if len(fresh) == 0 {
		return fmt.Errorf("issue certificate %s: the issuer gave none", h.opt.Name)
	}
	if err := h.fits(fresh, key); err != nil {
		return fmt.Errorf("issued certificate %s: %w", h.opt.Name, err)
	}
	if !req.Now.Before(fresh[0].NotAfter) {
		return fmt.Errorf("issued certificate %s: has expired already", h.opt.Name)
	}
	if err := h.store(fresh, key); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.chain, h.key = fresh, key
	return nil
}

func (h *Holder) nextKey(ctx context.Context, old privateKey) (privateKey, error) {
	var next privateKey
	var err error
	switch {
	case h.opt.TokenKey != nil:
		next.Signer, err = h.opt.TokenKey(ctx)
		return next, err
	case old.Signer != nil && !h.opt.Policy.RotateKey && old.plain == (h.opt.Vault == nil):
		return old, nil
	case h.opt.Vault != nil:
		next.Signer, next.block, err = h.opt.Vault.NewKey(ctx)
	default:
		var key crypto.Signer
		if key, err = rsa.GenerateKey(rand.Reader, rsaBits); err == nil {
			next, err = plainKey(key)
		}
	}
	if err != nil {
		return privateKey{}, fmt.Errorf("key of certificate %s: %w", h.opt.Name, err)
	}
	return next, nil
}

func (h *Holder) keyPath() string  { return filepath.Join(h.opt.Dir, "keys", h.opt.Name+".pem") }
func (h *Holder) certPath() string { return filepath.Join(h.opt.Dir, "certs", h.opt.Name+".pem") }

func (h *Holder) store(chain []*x509.Certificate, key privateKey) error {
	certs := encodeCerts(chain...)
	secret := slices.Concat(key.block, certs)
	for path, mode := range map[string]fs.FileMode{h.keyPath(): 0o700, h.certPath(): 0o755} {
		if err := makeDir(filepath.Dir(path), mode); err != nil {
			return err
		}
	}
	if err := atomicfile.Write(h.keyPath(), secret, 0o600); err != nil {
		return fmt.Errorf("store certificate %s: %w", h.opt.Name, err)
	}
	if err := atomicfile.Write(h.certPath(), certs, 0o644); err != nil {
		return fmt.Errorf("store certificate %s: %w", h.opt.Name, err)
	}
	return nil
}

// makeDir makes a directory with exactly this mode, whatever the umask.
func makeDir(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	return nil
}

package daemon

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/credential"
	"github.com/breakwater-iot/breakwater/daemon/internal/est"
	"github.com/breakwater-iot/breakwater/daemon/internal/keys"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
	"github.com/breakwater-iot/breakwater/daemon/internal/tpm"
)

// Names of certificates that are issued to the device: of their files, and of keys
// on a token.
const (
	identityName = "device-id"
	edgeCAName   = "edge_ca"
	localCAName  = "local-ca"
)

// firstDays is the life of certificates that are issued on this device, unless the
// config says another.
const firstDays = 30

// openCredential makes what the device authenticates with. An issued certificate
// may be missing afterwards.
func (d *daemon) openCredential(ctx context.Context) (err error) {
	cfg := d.Config
	if cfg.TPM.Needed && d.TPM == nil {
		return errors.New("the configuration needs a TPM, and none is open")
	}
	d.keys = credential.Keys{Token: d.Token, TPM: d.TPM}
	if d.roots, d.userBundle, err = Trust(cfg); err != nil {
		return err
	}
	if cfg.ManifestTrustBundleCert != "" {
		_, text, err := readCertificates(cfg.ManifestTrustBundleCert)
		if err != nil {
			return fmt.Errorf("manifest trust bundle: %w", err)
		}
		d.manifestTrust = string(text)
	}
	if ca := cfg.Issuance.LocalCA; ca.Issue.Method != "" {
		// The edge CA may be below it.
		if d.localCA, err = d.hold(ctx, localCAName, ca.Issue, ca.Key, pki.Template{CA: true, PathLen: 1}); err != nil {
			return fmt.Errorf("local CA: %w", err)
		}
	}
	id := cfg.Identity
	if id.Issue.Method != "" {
		if d.identityCert, err = d.hold(ctx, identityName, id.Issue, id.CertPK, pki.Template{}); err != nil {
			return fmt.Errorf("identity certificate: %w", err)
		}
	}
	d.credential, err = credential.Open(ctx, id, d.keys, d.identityCert, d.TPM)
	return err
}

// hold opens a certificate of the kind of t that is issued to the device.
func (d *daemon) hold(ctx context.Context, name string, issue config.Issue, key config.KeyURI, t pki.Template) (*pki.Holder, error) {
	issuer, err := d.issuer(ctx, name, issue)
	if err != nil {
		return nil, err
	}
	t.Subject, t.Days = subject(issue), cmp.Or(issue.ExpiryDays, firstDays)
	return d.openHolder(ctx, pki.HolderOptions{
		Name: name, Issuer: issuer, Policy: issue.AutoRenew.Policy, TokenKey: d.tokenKey(name, key), Template: t,
	})
}

// openHolder completes the options, and says why a certificate is not used.
func (d *daemon) openHolder(ctx context.Context, o pki.HolderOptions) (*pki.Holder, error) {
	o.Dir, o.Vault = d.home, d.vault()
	h, err := pki.OpenHolder(ctx, o)
	if err == nil {
		d.dropped(ctx, o.Name, h.Dropped())
	}
	return h, err
}

func (d *daemon) dropped(ctx context.Context, name string, err error) {
	if err != nil {
		d.Log.ErrorContext(ctx, "certificate is made anew", "certificate", name, "error", err)
	}
}

// vault makes keys of issued certificates; nil means that they lie open in their files.
func (d *daemon) vault() pki.Vault {
	if !d.Config.Keys.TPMNewKeys {
		return nil
	}
	return chipVault{d.TPM}
}

// chipVault is a TPM.
type chipVault struct{ TPM }

// OpenKey tells apart what is lost.
func (v chipVault) OpenKey(ctx context.Context, block []byte) (crypto.Signer, error) {
	key, err := v.TPM.OpenKey(ctx, block)
	if errors.Is(err, tpm.ErrForeign) || errors.Is(err, tpm.ErrText) {
		err = fmt.Errorf("%w: %w", pki.ErrKeyLost, err)
	}
	return key, err
}

// openRing opens the master keys.
func (d *daemon) openRing() (*keys.Ring, error) {
	var sealer keys.Sealer
	if d.Config.Keys.TPMMasterKeys {
		sealer = d.TPM
	}
	dir := filepath.Join(d.home, "keys")
	begin := d.Config.MasterKeys
	ring, err := keys.Open(dir, keys.Options{Sealer: sealer, Identity: begin.Identity, Encryption: begin.Encryption})
	switch {
	case errors.Is(err, tpm.ErrForeign):
		// Not made anew by itself: it could be the wrong disk in the wrong device.
		return nil, fmt.Errorf("key ring: %w; to begin with new ones, remove %s/*-master and %s/cache: all modules are made anew, and what they have sealed is lost", err, dir, d.home)
	case err != nil:
		return nil, fmt.Errorf("key ring: %w", err)
	}
	return ring, nil
}

// tokenKey returns where the key of an issued certificate is, if not in its file:
// the key that the config names, else one of its own on the token for new keys.
// Keys that the TPM makes are in the file, wrapped.
func (d *daemon) tokenKey(name string, key config.KeyURI) func(context.Context) (crypto.Signer, error) {
	switch {
	case key.OnToken() && d.Token != nil:
		return func(ctx context.Context) (crypto.Signer, error) { return d.Token.Generate(ctx, string(key), "") }
	case key.InTPM():
		return func(ctx context.Context) (crypto.Signer, error) { return d.TPM.Generate(ctx, string(key)) }
	case key != "":
		return func(ctx context.Context) (crypto.Signer, error) { return d.keys.Signer(ctx, key) }
	case d.Config.Keys.BaseSlot != "" && d.Token != nil:
		return func(ctx context.Context) (crypto.Signer, error) {
			return d.Token.Generate(ctx, string(d.Config.Keys.BaseSlot), name)
		}
	}
	return nil
}

// issuer makes the client of a certificate's issuer; nil means that the certificate
// signs itself, for an edge CA.
func (d *daemon) issuer(ctx context.Context, name string, i config.Issue) (pki.Issuer, error) {
	switch i.Method {
	case config.SelfSigned:
		return pki.SelfSigner{}, nil
	case config.LocalCA:
		if d.localCA != nil {
			return &pki.LocalCA{Load: d.localCA.Load}, nil
		}
		ca := d.Config.Issuance.LocalCA
		return &pki.LocalCA{Load: func(ctx context.Context) ([]*x509.Certificate, crypto.Signer, error) {
			return d.keys.Pair(ctx, ca.Cert, ca.Key)
		}}, nil
	}
	o, err := d.estOptions(i)
	if err != nil {
		return nil, err
	}
	switch {
	case i.Cert != "":
		o.Certificate = func(ctx context.Context) (*tls.Certificate, error) { return d.keys.Certificate(ctx, i.Cert, i.CertPK) }
	case i.BootstrapCert != "":
		own, err := d.estIdentity(ctx, "est-"+name, i, o)
		if err != nil {
			return nil, err
		}
		o.Certificate = own.Obtain
	}
	return est.New(o)
}

func (d *daemon) estOptions(i config.Issue) (est.Options, error) {
	roots := d.roots.Clone()
	for _, file := range d.Config.Issuance.EST.TrustedCerts {
		certs, _, err := readCertificates(file)
		if err != nil {
			return est.Options{}, fmt.Errorf("trusted certificates of EST servers: %w", err)
		}
		for _, c := range certs {
			roots.AddCert(c)
		}
	}
	return est.Options{
		URL: i.URL, Username: i.Username, Password: string(i.Password), RootCAs: roots,
		Timeout: time.Duration(d.Config.CloudTimeoutSec) * time.Second, UserAgent: "edged/" + d.Version,
	}, nil
}

// readCertificates reads a file of PEM certificates, at least one, and its text.
func readCertificates(file string) ([]*x509.Certificate, []byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	certs, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return certs, text, nil
}

// estIdentity is the certificate that a bootstrap certificate gets for the device,
// which vouches for its own successors, and for all others.
func (d *daemon) estIdentity(ctx context.Context, name string, i config.Issue, o est.Options) (*pki.Holder, error) {
	o.Reenroll = true
	o.Certificate = func(ctx context.Context) (*tls.Certificate, error) {
		return d.keys.Certificate(ctx, i.BootstrapCert, i.BootstrapPK)
	}
	client, err := est.New(o)
	if err != nil {
		return nil, err
	}
	cn := cmp.Or(d.Config.Identity.RegistrationID, d.Config.Device.DeviceID, i.CommonName)
	var key func(context.Context) (crypto.Signer, error)
	if i.CertPK != "" {
		key = d.tokenKey(name, i.CertPK)
	}
	h, err := d.openHolder(ctx, pki.HolderOptions{
		Name: name, TokenKey: key, Issuer: client, Policy: d.Config.Issuance.EST.IdentityAutoRenew.Policy,
		Template: pki.Template{Subject: pkix.Name{CommonName: cn}},
	})
	if err == nil {
		d.estIdentities = append(d.estIdentities, h)
	}
	return h, err
}

func subject(i config.Issue) pkix.Name {
	list := func(key string) []string {
		if v := i.Subject[key]; v != "" {
			return []string{v}
		}
		return nil
	}
	return pkix.Name{
		CommonName: cmp.Or(i.CommonName, i.Subject["CN"]), Organization: list("O"), OrganizationalUnit: list("OU"),
		Locality: list("L"), Province: list("ST"), Country: list("C"),
	}
}

// leaves are the wishes for certificates of modules.
func leaves(wishes map[string]config.Issue) map[string]pki.Leaf {
	out := map[string]pki.Leaf{}
	for id, i := range wishes {
		leaf := pki.Leaf{Days: i.ExpiryDays}
		if i.CommonName != "" || len(i.Subject) > 0 {
			name := subject(i)
			leaf.Subject = &name
		}
		out[id] = leaf
	}
	return out
}

// openAuthority opens the edge CA.
func (d *daemon) openAuthority(ctx context.Context) error {
	ca := d.Config.EdgeCA
	o := pki.Options{
		DeviceID: d.Config.Device.DeviceID, Subject: subject(ca.Issue), Dir: d.home, Days: ca.ExpiryDays,
		Policy: ca.AutoRenew.Policy, UserBundle: d.userBundle, Leaves: leaves(d.Config.Issuance.Modules),
	}
	var err error
	if ca.KeyPair.Cert != "" {
		o.Preloaded = func(ctx context.Context) ([]*x509.Certificate, crypto.Signer, error) {
			return d.keys.Pair(ctx, ca.KeyPair.Cert, ca.Key)
		}
	} else {
		o.TokenKey, o.Vault = d.tokenKey(edgeCAName, ca.Key), d.vault()
		if ca.Method != config.SelfSigned {
			if o.Issuer, err = d.issuer(ctx, edgeCAName, ca.Issue); err != nil {
				return fmt.Errorf("edge CA: %w", err)
			}
		}
	}
	if d.authority, err = pki.Open(ctx, o); err != nil {
		return err
	}
	d.dropped(ctx, edgeCAName, d.authority.Dropped())
	cert := d.authority.Certificate()
	switch {
	case cert == nil:
		d.Log.WarnContext(ctx, "there is no edge CA yet: modules get no certificates until it is issued")
	case cert.Subject.CommonName == d.Config.Hostname:
		return fmt.Errorf("edge CA: its name %q must differ from the hostname", d.Config.Hostname)
	case !time.Now().Before(cert.NotAfter):
		d.Log.ErrorContext(ctx, "edge CA has expired: modules get no certificates until it is replaced", "ended", cert.NotAfter)
	}
	return nil
}

// certificateName returns the common name of the identity certificate.
func (d *daemon) certificateName(ctx context.Context) (string, error) {
	id := d.Config.Identity
	if d.identityCert != nil {
		return subject(id.Issue).CommonName, nil
	}
	c, err := d.keys.Certificate(ctx, id.Cert, id.CertPK)
	if err != nil {
		return "", err
	}
	if c.Leaf.Subject.CommonName == "" {
		return "", errors.New("it has no common name, and no registration_id is given")
	}
	return c.Leaf.Subject.CommonName, nil
}

// Package credential is how the device proves who it is: to the hub's registry and
// to the provisioning service, by signatures of a symmetric key (in the config, on a
// PKCS#11 token, in a TPM) or by a client certificate (in files, or issued).
package credential

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/pki"
)

// signLimit bounds one operation of a token that has no context of its caller.
const signLimit = 30 * time.Second

// Token holds keys that do not leave it: *pkcs11.Token and *tpm.TPM do. Keys are named by
// their URI.
type Token interface {
	// Signer returns the private key.
	Signer(ctx context.Context, uri string) (crypto.Signer, error)
	// HMAC returns the HMAC-SHA256 of data with a secret key.
	HMAC(ctx context.Context, uri string, data []byte) ([]byte, error)
}

// Keys finds private keys by the URIs of the config.
type Keys struct {
	Token Token // with PKCS#11; nil if none is configured
	TPM   Token // nil if none is configured
}

// holder returns what holds the key of a URI; nil for a file.
func (k Keys) holder(uri config.KeyURI) (Token, error) {
	switch {
	case uri.OnToken() && k.Token == nil:
		return nil, errors.New("no PKCS#11 library is configured")
	case uri.OnToken():
		return k.Token, nil
	case uri.InTPM() && k.TPM == nil:
		return nil, errors.New("no TPM is open")
	case uri.InTPM():
		return k.TPM, nil
	}
	return nil, nil
}

// Signer returns the private key of a URI: that of a PEM file, or one on the token or in
// the TPM. A file that others can read is refused.
func (k Keys) Signer(ctx context.Context, uri config.KeyURI) (crypto.Signer, error) {
	holder, err := k.holder(uri)
	if err != nil {
		return nil, err
	}
	if holder != nil {
		return holder.Signer(ctx, string(uri))
	}
	st, err := os.Stat(string(uri))
	if err != nil {
		return nil, err
	}
	if perm := st.Mode().Perm(); perm&0o007 != 0 {
		return nil, fmt.Errorf("%s is accessible to others (mode %04o, want 0600)", uri, perm)
	}
	text, err := os.ReadFile(string(uri))
	if err != nil {
		return nil, err
	}
	key, err := pki.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	return key, nil
}

// Pair reads a certificate with its issuers from a file, and its key.
func (k Keys) Pair(ctx context.Context, cert string, key config.KeyURI) ([]*x509.Certificate, crypto.Signer, error) {
	text, err := os.ReadFile(cert)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate %s: %w", cert, err)
	}
	signer, err := k.Signer(ctx, key)
	if err != nil {
		return nil, nil, fmt.Errorf("key: %w", err)
	}
	return chain, signer, nil
}

// Certificate returns the client certificate of two files, read at each call so
// that replaced files count at once.
func (k Keys) Certificate(ctx context.Context, cert string, key config.KeyURI) (*tls.Certificate, error) {
	chain, signer, err := k.Pair(ctx, cert, key)
	if err != nil {
		return nil, err
	}
	return pki.ClientCertificate(chain, signer)
}

// Credential is how the device authenticates. Exactly one field is set.
type Credential struct {
	// Sign returns the HMAC-SHA256 of data with the device's key.
	Sign func(data []byte) ([]byte, error)
	// Certificate returns the client certificate; it may change.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
}

// Open makes the credential that the config describes. held is the issued
// certificate, if the config names an issuer; chip signs with a TPM. A certificate
// in files must be readable and match its key.
func Open(ctx context.Context, id config.Identity, keys Keys, held *pki.Holder, chip interface {
	Sign(data []byte) ([]byte, error)
}) (Credential, error) {
	switch {
	case id.Method == config.TPMKey:
		return Credential{Sign: chip.Sign}, nil
	case id.Method == config.SAS && id.KeyURI != "":
		holder, err := keys.holder(id.KeyURI)
		if err != nil {
			return Credential{}, err
		}
		return Credential{Sign: func(data []byte) ([]byte, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signLimit)
			defer cancel()
			return holder.HMAC(ctx, string(id.KeyURI), data)
		}}, nil
	case id.Method == config.SAS:
		return Credential{Sign: id.Key.Sign}, nil
	case held != nil:
		return Credential{Certificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return held.Current() }}, nil
	}
	if _, err := keys.Certificate(ctx, id.Cert, id.CertPK); err != nil {
		return Credential{}, fmt.Errorf("identity certificate: %w", err)
	}
	return Credential{Certificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return keys.Certificate(info.Context(), id.Cert, id.CertPK)
	}}, nil
}

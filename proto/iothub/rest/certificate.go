package rest

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
)

// Certificate is a certificate authority of a hub. In a request only the
// certificate and isVerified are read. The local hub serves these documents itself;
// in the cloud they belong to the management of resources.
type Certificate struct {
	Name       string                `json:"name,omitempty"`
	Etag       string                `json:"etag,omitempty"`
	Properties CertificateProperties `json:"properties,omitzero"`
	// Certificate is where the proof of possession stands (VerifyCertificate).
	Certificate string `json:"certificate,omitempty"`
}

// CertificateProperties describe a certificate authority.
type CertificateProperties struct {
	Subject     string `json:"subject,omitempty"`
	Expiry      Time   `json:"expiry,omitzero"`
	Thumbprint  string `json:"thumbprint,omitempty"`
	IsVerified  bool   `json:"isVerified"`
	Created     Time   `json:"created,omitzero"`
	Updated     Time   `json:"updated,omitzero"`
	Certificate string `json:"certificate,omitempty"` // base64 of DER, or PEM
	// VerificationCode is the common name that a proof of possession must have.
	VerificationCode string `json:"verificationCode,omitempty"`
}

// EncodeCertificate returns DER in the form of the documents.
func EncodeCertificate(der []byte) string { return base64.StdEncoding.EncodeToString(der) }

func certificatePath(name string) string { return "/certificates/" + url.PathEscape(name) }

// PutCertificate adds an authority (ifMatch MustNotExist) or replaces one.
func (c *Client) PutCertificate(ctx context.Context, name, certificate string, verified bool, ifMatch string) (Certificate, error) {
	var out Certificate
	body := Certificate{Properties: CertificateProperties{Certificate: certificate, IsVerified: verified}}
	err := c.do(ctx, request{method: http.MethodPut, path: certificatePath(name), body: body, ifMatch: ifMatch}, &out)
	return out, err
}

// GetCertificate reads one authority.
func (c *Client) GetCertificate(ctx context.Context, name string) (Certificate, error) {
	var out Certificate
	err := c.do(ctx, request{method: http.MethodGet, path: certificatePath(name)}, &out)
	return out, err
}

// ListCertificates returns all authorities.
func (c *Client) ListCertificates(ctx context.Context) ([]Certificate, error) {
	var out struct {
		Value []Certificate `json:"value"`
	}
	err := c.do(ctx, request{method: http.MethodGet, path: "/certificates"}, &out)
	return out.Value, err
}

// DeleteCertificate removes an authority; connections that depend on it end.
func (c *Client) DeleteCertificate(ctx context.Context, name string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: certificatePath(name), ifMatch: MustExist}, nil)
}

// CertificateCode asks for a verification code.
func (c *Client) CertificateCode(ctx context.Context, name string) (Certificate, error) {
	var out Certificate
	err := c.do(ctx, request{method: http.MethodPost, path: certificatePath(name) + "/generateVerificationCode"}, &out)
	return out, err
}

// VerifyCertificate sends the proof: a certificate with the code as its common name.
func (c *Client) VerifyCertificate(ctx context.Context, name, certificate string) (Certificate, error) {
	var out Certificate
	err := c.do(ctx, request{method: http.MethodPost, path: certificatePath(name) + "/verify",
		body: Certificate{Certificate: certificate}}, &out)
	return out, err
}

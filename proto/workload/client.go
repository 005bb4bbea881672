// Package workload is a client of the security daemon's workload API, which every
// module reaches on a unix socket: it signs with the module's key, issues
// certificates and seals data, and the module never holds a key of its identity.
package workload

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// ErrURI is returned for a workload URI that is no unix socket.
var ErrURI = errors.New("workload URI is not unix:///path")

// Client calls the workload API for one module. It connects when it is first used
// and again after the daemon restarted. It may be used from many goroutines.
//
// All calls wait for a daemon that is away and end with their context, which
// should have a deadline. Errors are wrapped gRPC status errors and never hold keys
// or data.
type Client struct {
	conn       *grpc.ClientConn
	api        workloadv1.WorkloadClient
	module     string
	generation string
}

// Open returns a client for a module and its generation, as the environment of a
// module names them. uri is unix:///path. It does not wait for the daemon. The
// caller closes the client.
func Open(uri, module, generation string) (*Client, error) {
	path, ok := strings.CutPrefix(uri, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return nil, ErrURI
	}
	conn, err := grpc.NewClient("unix:"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return nil, fmt.Errorf("workload API: %w", err)
	}
	return New(conn, module, generation), nil
}

// New returns a client on a connection that somebody else made. Close closes that
// connection.
func New(conn *grpc.ClientConn, module, generation string) *Client {
	return &Client{conn: conn, api: workloadv1.NewWorkloadClient(conn), module: module, generation: generation}
}

// Close ends the connection to the daemon; calls under way fail.
func (c *Client) Close() error { return c.conn.Close() }

// Sign returns the HMAC-SHA256 of data with the module's primary key.
func (c *Client) Sign(ctx context.Context, data []byte) ([]byte, error) {
	r, err := c.api.Sign(ctx, &workloadv1.SignRequest{
		ModuleId: c.module, GenerationId: c.generation, KeyId: "primary", Algo: "HMACSHA256", Data: data,
	})
	if err != nil {
		return nil, fmt.Errorf("workload sign: %w", err)
	}
	return r.GetDigest(), nil
}

// Encrypt seals plaintext for this module and generation.
func (c *Client) Encrypt(ctx context.Context, plaintext, initializationVector []byte) ([]byte, error) {
	r, err := c.api.Encrypt(ctx, &workloadv1.EncryptRequest{
		ModuleId: c.module, GenerationId: c.generation, Plaintext: plaintext, InitializationVector: initializationVector,
	})
	if err != nil {
		return nil, fmt.Errorf("workload encrypt: %w", err)
	}
	return r.GetCiphertext(), nil
}

// Decrypt opens what Encrypt sealed with the same initialization vector.
func (c *Client) Decrypt(ctx context.Context, ciphertext, initializationVector []byte) ([]byte, error) {
	r, err := c.api.Decrypt(ctx, &workloadv1.DecryptRequest{
		ModuleId: c.module, GenerationId: c.generation, Ciphertext: ciphertext, InitializationVector: initializationVector,
	})
	if err != nil {
		return nil, fmt.Errorf("workload decrypt: %w", err)
	}
	return r.GetPlaintext(), nil
}

// TrustBundle returns the certificates, in PEM, that clients of this device trust
// besides the system's; empty when the device has none.
func (c *Client) TrustBundle(ctx context.Context) ([]byte, error) {
	r, err := c.api.GetTrustBundle(ctx, &workloadv1.GetTrustBundleRequest{})
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("workload trust bundle: %w", err)
	}
	return []byte(r.GetCertificate()), nil
}

// ManifestTrustBundle returns the roots, in PEM, of the signers of deployment
// manifests; empty when manifests are not signed.
func (c *Client) ManifestTrustBundle(ctx context.Context) ([]byte, error) {
	r, err := c.api.GetManifestTrustBundle(ctx, &workloadv1.GetManifestTrustBundleRequest{})
	if err != nil {
		return nil, fmt.Errorf("workload manifest trust bundle: %w", err)
	}
	return []byte(r.GetCertificate()), nil
}

// Roots returns the system's root certificates and the trust bundle in one pool.
func (c *Client) Roots(ctx context.Context) (*x509.CertPool, error) {
	bundle, err := c.TrustBundle(ctx)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(bundle)
	return pool, nil
}

// Certificate is a certificate that the daemon issued, with its chain and a fresh
// key.
type Certificate struct {
	TLS    tls.Certificate
	Expiry time.Time // end of validity of the leaf
}

// ServerCertificate issues a certificate for a server of this name (DNS name or
// IP address). Each call makes a new key.
func (c *Client) ServerCertificate(ctx context.Context, commonName string) (Certificate, error) {
	r, err := c.api.CreateServerCertificate(ctx, &workloadv1.ServerCertificateRequest{
		ModuleId: c.module, GenerationId: c.generation, CommonName: commonName,
		Expiration: time.Now().Add(90 * 24 * time.Hour).UTC().Format(time.RFC3339),
	})
	if err != nil {
		return Certificate{}, fmt.Errorf("workload server certificate: %w", err)
	}
	return parse(r)
}

// IdentityCertificate issues a client certificate for the module. Each call makes
// a new key.
func (c *Client) IdentityCertificate(ctx context.Context) (Certificate, error) {
	r, err := c.api.CreateIdentityCertificate(ctx, &workloadv1.IdentityCertificateRequest{
		ModuleId: c.module, GenerationId: c.generation,
	})
	if err != nil {
		return Certificate{}, fmt.Errorf("workload identity certificate: %w", err)
	}
	return parse(r)
}

func parse(r *workloadv1.Certificate) (Certificate, error) {
	cert, err := tls.X509KeyPair([]byte(r.GetCertificate()), []byte(r.GetPrivateKey().GetBytes()))
	if err != nil {
		return Certificate{}, fmt.Errorf("workload certificate: %w", err)
	}
	return Certificate{TLS: cert, Expiry: cert.Leaf.NotAfter}, nil
}

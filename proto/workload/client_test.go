package workload_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/proto/workload"
	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon answers so that each field of a request can be seen in the answer.
type daemon struct {
	workloadv1.UnimplementedWorkloadServer
	cert, key string
	noBundle  bool
}

func (d *daemon) Sign(_ context.Context, r *workloadv1.SignRequest) (*workloadv1.SignResponse, error) {
	if r.GetModuleId() != "m" {
		return nil, status.Error(codes.PermissionDenied, "forbidden")
	}
	return &workloadv1.SignResponse{Digest: slices.Concat([]byte(r.GetGenerationId()), r.GetData())}, nil
}

func (d *daemon) Encrypt(_ context.Context, r *workloadv1.EncryptRequest) (*workloadv1.EncryptResponse, error) {
	return &workloadv1.EncryptResponse{Ciphertext: slices.Concat(r.GetInitializationVector(), r.GetPlaintext(), []byte(r.GetModuleId()+r.GetGenerationId()))}, nil
}

func (d *daemon) Decrypt(_ context.Context, r *workloadv1.DecryptRequest) (*workloadv1.DecryptResponse, error) {
	plain, ok := bytes.CutPrefix(r.GetCiphertext(), r.GetInitializationVector())
	plain, ok2 := bytes.CutSuffix(plain, []byte(r.GetModuleId()+r.GetGenerationId()))
	if !ok || !ok2 {
		return nil, status.Error(codes.Internal, "cannot open")
	}
	return &workloadv1.DecryptResponse{Plaintext: plain}, nil
}

func (d *daemon) CreateServerCertificate(_ context.Context, r *workloadv1.ServerCertificateRequest) (*workloadv1.Certificate, error) {
	if r.GetCommonName() != "host" || r.GetGenerationId() != "g" {
		return nil, status.Error(codes.InvalidArgument, "common name")
	}
	return &workloadv1.Certificate{PrivateKey: &workloadv1.PrivateKey{Type: "key", Bytes: d.key}, Certificate: d.cert}, nil
}

func (d *daemon) CreateIdentityCertificate(context.Context, *workloadv1.IdentityCertificateRequest) (*workloadv1.Certificate, error) {
	return &workloadv1.Certificate{PrivateKey: &workloadv1.PrivateKey{Type: "key", Bytes: "no key"}, Certificate: d.cert}, nil
}

func (d *daemon) GetTrustBundle(context.Context, *workloadv1.GetTrustBundleRequest) (*workloadv1.TrustBundle, error) {
	if d.noBundle {
		return nil, status.Error(codes.NotFound, "none")
	}
	return &workloadv1.TrustBundle{Certificate: d.cert}, nil
}

func (d *daemon) GetManifestTrustBundle(context.Context, *workloadv1.GetManifestTrustBundleRequest) (*workloadv1.TrustBundle, error) {
	return &workloadv1.TrustBundle{Certificate: "manifest"}, nil
}

func (d *daemon) makeCertificate(t *testing.T, expiry time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "host"}, NotAfter: expiry, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	d.cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	d.key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func serve(t *testing.T, d *daemon, path string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workloadv1.RegisterWorkloadServer(server, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	}()
	return func() {
		server.Stop()
		<-done
	}
}

func TestClient(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d := &daemon{}
	expiry := time.Now().Add(30 * 24 * time.Hour).UTC().Truncate(time.Second)
	d.makeCertificate(t, expiry)
	path := filepath.Join(t.TempDir(), "w.sock")
	c, err := workload.Open("unix://"+path, "m", "g")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The daemon comes later than the module.
	early := make(chan error)
	go func() {
		_, err := c.Sign(ctx, nil)
		early <- err
	}()
	defer serve(t, d, path)()
	if err := <-early; err != nil {
		t.Errorf("sign before the daemon is there: %v", err)
	}
	if digest, err := c.Sign(ctx, []byte("data")); err != nil || string(digest) != "gdata" {
		t.Errorf("sign: %q, %v", digest, err)
	}
	sealed, err := c.Encrypt(ctx, []byte("plain"), []byte("iv"))
	if err != nil || string(sealed) != "ivplainmg" {
		t.Errorf("encrypt: %q, %v", sealed, err)
	}
	if plain, err := c.Decrypt(ctx, sealed, []byte("iv")); err != nil || string(plain) != "plain" {
		t.Errorf("decrypt: %q, %v", plain, err)
	}
	if _, err := c.Decrypt(ctx, sealed, []byte("other")); status.Code(errors.Unwrap(err)) != codes.Internal {
		t.Errorf("decrypt with another vector: %v", err)
	}
	cert, err := c.ServerCertificate(ctx, "host")
	if err != nil || cert.TLS.Leaf.Subject.CommonName != "host" || !cert.Expiry.Equal(expiry) {
		t.Errorf("server certificate: %v until %v", err, cert.Expiry)
	}
	if _, err := c.IdentityCertificate(ctx); err == nil {
		t.Error("certificate without a key is accepted")
	}
	if b, err := c.ManifestTrustBundle(ctx); err != nil || string(b) != "manifest" {
		t.Errorf("manifest trust bundle: %q, %v", b, err)
	}
	roots, err := c.Roots(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.TLS.Leaf.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Errorf("trust bundle is not trusted: %v", err)
	}
	d.noBundle = true
	if b, err := c.TrustBundle(ctx); err != nil || b != nil {
		t.Errorf("no trust bundle: %q, %v", b, err)
	}
}

func TestForbidden(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.sock")
	defer serve(t, &daemon{}, path)()
	c, err := workload.Open("unix://"+path, "other", "g")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Sign(t.Context(), nil); status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
		t.Error(err)
	}
}

func TestOpenRefusesOtherURIs(t *testing.T) {
	for _, uri := range []string{"", "http://x", "unix:relative", "unix://relative", "/path"} {
		if _, err := workload.Open(uri, "m", "g"); !errors.Is(err, workload.ErrURI) {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

package hubrig

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workloadv1 "github.com/breakwater-iot/breakwater/proto/workload/v1"
)

// workload stands in for the daemon: it serves of the workload API what the hub
// uses, with keys that live as long as the rig.
type workload struct {
	workloadv1.UnimplementedWorkloadServer
	path   string
	keys   map[string][]byte
	bundle []byte
	roots  *x509.CertPool
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	aead   cipher.AEAD
	server *grpc.Server
	ended  chan struct{}
}

// serveWorkload serves modules with these keys at a socket. others are certificates
// that they must trust beside the root that the workload makes.
func serveWorkload(path string, keys map[string][]byte, others []byte, say func(string, ...any)) (*workload, error) {
	w := &workload{path: path, keys: keys, ended: make(chan struct{}), roots: x509.NewCertPool()}
	var err error
	if w.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rig " + filepath.Base(path)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, w.caKey.Public(), w.caKey)
	if err != nil {
		return nil, err
	}
	if w.ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	w.roots.AddCert(w.ca)
	w.bundle = append(w.root(), others...)
	block, err := aes.NewCipher(keys[hubModule])
	if err != nil {
		return nil, err
	}
	if w.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	os.Remove(w.path)
	l, err := net.Listen("unix", w.path)
	if err != nil {
		return nil, err
	}
	w.server = grpc.NewServer()
	workloadv1.RegisterWorkloadServer(w.server, w)
	go func() {
		defer close(w.ended)
		if err := w.server.Serve(l); err != nil {
			say("workload API: %v", err)
		}
	}()
	return w, nil
}

// root is the certificate that issues those of the hub's server, as PEM.
func (w *workload) root() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.ca.Raw})
}

func (w *workload) stop() {
	w.server.Stop()
	<-w.ended
}

// Sign signs with the module's key.
func (w *workload) Sign(_ context.Context, q *workloadv1.SignRequest) (*workloadv1.SignResponse, error) {
	key := w.keys[q.GetModuleId()]
	if key == nil {
		return nil, status.Errorf(codes.NotFound, "module %s", q.GetModuleId())
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(q.GetData())
	return &workloadv1.SignResponse{Digest: mac.Sum(nil)}, nil
}

// Encrypt seals.
func (w *workload) Encrypt(_ context.Context, q *workloadv1.EncryptRequest) (*workloadv1.EncryptResponse, error) {
	nonce := make([]byte, w.aead.NonceSize())
	rand.Read(nonce) //nolint:errcheck // never fails (crypto/rand)
	return &workloadv1.EncryptResponse{Ciphertext: w.aead.Seal(nonce, nonce, q.GetPlaintext(), q.GetInitializationVector())}, nil
}

// Decrypt opens.
func (w *workload) Decrypt(_ context.Context, q *workloadv1.DecryptRequest) (*workloadv1.DecryptResponse, error) {
	c, n := q.GetCiphertext(), w.aead.NonceSize()
	if len(c) < n {
		return nil, status.Error(codes.InvalidArgument, "short ciphertext")
	}
	plain, err := w.aead.Open(nil, c[:n], c[n:], q.GetInitializationVector())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "ciphertext was not made here")
	}
	return &workloadv1.DecryptResponse{Plaintext: plain}, nil
}

// GetTrustBundle returns the roots of the rig and of its cloud.
func (w *workload) GetTrustBundle(context.Context, *workloadv1.GetTrustBundleRequest) (*workloadv1.TrustBundle, error) {
	return &workloadv1.TrustBundle{Certificate: string(w.bundle)}, nil
}

// CreateServerCertificate issues a certificate.
func (w *workload) CreateServerCertificate(_ context.Context, q *workloadv1.ServerCertificateRequest) (*workloadv1.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: q.GetCommonName()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if a := net.ParseIP(q.GetCommonName()); a != nil {
		template.IPAddresses = []net.IP{a}
	} else {
		template.DNSNames = []string{q.GetCommonName()}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.ca, key.Public(), w.caKey)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return &workloadv1.Certificate{
		PrivateKey:  &workloadv1.PrivateKey{Type: "key", Bytes: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))},
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Expiration:  template.NotAfter.UTC().Format(time.RFC3339),
	}, nil
}

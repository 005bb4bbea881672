package rig

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Storage is a storage server in the cloud that is not ours: Azurite, with a
// certificate that the device trusts.
type Storage struct {
	r   *Rig
	p   *Process
	key string // of the account
}

const (
	storagePort    = "10000"
	storageAccount = "breakwater"
	storageURL     = "https://" + cloudAddr + ":" + storagePort
)

// StartStorage starts the server and waits until it listens. The cloud must have been
// started. What it keeps is in memory.
func (r *Rig) StartStorage(ctx context.Context) (*Storage, error) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails, see crypto/rand
	s := &Storage{r: r, key: base64.StdEncoding.EncodeToString(secret)}
	cert, key, err := r.storageCertificate()
	if err != nil {
		return nil, fmt.Errorf("certificate of the storage server: %w", err)
	}
	ready := make(chan struct{})
	said := false
	s.p, err = r.start(spec{
		name: "azurite", host: Cloud, path: "node", dir: s.dir(), env: []string{"AZURITE_ACCOUNTS=" + storageAccount + ":" + s.key},
		args: []string{filepath.Join("node_modules", ".bin", "azurite-blob"), "--blobHost", cloudAddr, "--blobPort", storagePort,
			"--cert", cert, "--key", key, "--inMemoryPersistence", "--disableTelemetry", "--silent"},
		stdout: func(line string) {
			if !said && strings.Contains(line, "successfully listens") {
				said = true
				close(ready)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return s, r.waitReady(ctx, s.p, ready, 30*time.Second)
}

func (s *Storage) dir() string { return filepath.Join(s.r.Root, "e2e", "azurite") }

// Stop ends the server.
func (s *Storage) Stop() error { return s.p.Stop(10 * time.Second) }

// Grant makes a container and returns the address at which an uploader may write there.
func (s *Storage) Grant(ctx context.Context, container string) (string, error) {
	var address string
	return address, s.ask(ctx, &address, "grant", container)
}

// Blob is something that lies in a container.
type Blob struct {
	Path, Kind, Type, Encoding string
	Content                    []byte
}

// Blobs lists a container with what is in it, as the stock client reads it.
func (s *Storage) Blobs(ctx context.Context, container string) ([]Blob, error) {
	var all []Blob
	return all, s.ask(ctx, &all, "list", container)
}

func (s *Storage) ask(ctx context.Context, answer any, what, container string) error {
	out, err := run(ctx, "ip", "netns", "exec", string(Cloud), "env", "NODE_EXTRA_CA_CERTS="+s.r.CloudRoot(),
		"node", filepath.Join(s.dir(), "blobs.js"), storageURL, storageAccount, s.key, what, container)
	if err != nil {
		return fmt.Errorf("storage client: %w", err)
	}
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		return fmt.Errorf("storage client: %w", err)
	}
	return nil
}

// storageCertificate makes a certificate for the cloud's address under the cloud's root.
func (r *Rig) storageCertificate() (certFile, keyFile string, err error) {
	root, err := tls.LoadX509KeyPair(r.CloudRoot(), filepath.Join(r.cloudDir(), "root.key"))
	if err != nil {
		return "", "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(cloudAddr)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root.Leaf, key.Public(), root.PrivateKey)
	if err != nil {
		return "", "", err
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(r.Dir, "storage.pem"), filepath.Join(r.Dir, "storage.key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: rawKey}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return "", "", err
		}
	}
	return certFile, keyFile, nil
}

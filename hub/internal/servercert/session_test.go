package servercert_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/servercert"
)

// edgeCA is one that issues server certificates for ten days.
func edgeCA(t *testing.T, name string) (*x509.Certificate, func() (tls.Certificate, time.Time)) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	sign := func(c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	caKey := newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	ca := sign(template, template, caKey, caKey)
	return ca, func() (tls.Certificate, time.Time) {
		key, end := newKey(), time.Now().AddDate(0, 0, 10)
		leaf := sign(&x509.Certificate{
			SerialNumber: big.NewInt(2), DNSNames: []string{"gateway"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
		}, ca, key, caKey)
		return tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: key}, end
	}
}

func TestSessionsOutliveARenewedCertificateOfARenewedCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		oldCA, issue := edgeCA(t, "edge CA of yesterday")
		newCA, issueNew := edgeCA(t, "edge CA of today")
		h, err := servercert.New(t.Context(), func(context.Context) (tls.Certificate, time.Time, error) {
			cert, end := issue()
			return cert, end, nil
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		issue = issueNew // the daemon's CA is renewed
		connect := func(trust ...*x509.Certificate) (*tls.Conn, error) {
			near, far := net.Pipe()
			go func() { // an echo
				defer far.Close()
				server := tls.Server(far, &tls.Config{GetCertificate: h.GetCertificate})
				_, _ = io.Copy(server, server)
			}()
			roots := x509.NewCertPool()
			for _, c := range trust {
				roots.AddCert(c)
			}
			conn := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "gateway"})
			if err := conn.Handshake(); err != nil {
				near.Close()
				return nil, err
			}
			return conn, nil
		}
		echo := func(conn *tls.Conn) {
			t.Helper()
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		first, err := connect(oldCA)
		if err != nil {
			t.Fatal(err)
		}
		defer first.NetConn().Close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		time.Sleep(9 * 24 * time.Hour)
		synctest.Wait()
		echo(first)
		// Who has the trust bundle of now, with both, gets in; who has the old one does
		// not, which is why the daemon restarts modules that cannot know the new root.
		second, err := connect(oldCA, newCA)
		if err != nil {
			t.Fatal(err)
		}
		defer second.NetConn().Close()
		echo(second)
		if second.ConnectionState().PeerCertificates[0].CheckSignatureFrom(newCA) != nil {
			t.Error("certificate is not the new CA's")
		}
		if _, err := connect(oldCA); err == nil {
			t.Error("the new CA is trusted by the old bundle")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

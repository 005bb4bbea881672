package trust_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
	"github.com/breakwater-iot/breakwater/hub/internal/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon has a bundle that changes.
type daemon struct {
	mu  sync.Mutex
	raw []byte
	err error
}

func (d *daemon) fetch(context.Context) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.raw, d.err
}

func (d *daemon) set(raw []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.raw, d.err = raw, err
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func TestRenewedAuthorityIsLearnt(t *testing.T) {
	old, renewed := certtest.New(t, "old", time.Now(), nil), certtest.New(t, "renewed", time.Now(), nil)
	pools := map[string]*x509.CertPool{"": x509.NewCertPool()}
	for name, list := range map[string][]*x509.Certificate{"old": {old.Cert}, "both": {old.Cert, renewed.Cert}} {
		pools[name] = x509.NewCertPool()
		for _, c := range list {
			pools[name].AddCert(c)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		d := &daemon{raw: pemOf(old.Cert)}
		b, err := trust.New(t.Context(), d.fetch, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		for _, step := range []struct {
			name string
			raw  []byte
			err  error
			want string
		}{
			{"as at the start", pemOf(old.Cert), nil, "old"},
			{"renewed", append(pemOf(old.Cert), pemOf(renewed.Cert)...), nil, "both"},
			{"daemon away", nil, errors.New("away"), "both"},
			{"nonsense", []byte("nonsense"), nil, "both"},
			{"back again", pemOf(old.Cert), nil, "old"},
			{"no bundle any more", nil, nil, ""},
		} {
			d.set(step.raw, step.err)
			time.Sleep(61 * time.Second)
			synctest.Wait()
			if !b.Pool().Equal(pools[step.want]) {
				t.Errorf("%s: not the pool %q", step.name, step.want)
			}
			for name, authority := range map[string]*x509.Certificate{"old": old.Cert, "renewed": renewed.Cert} {
				_, err := authority.Verify(x509.VerifyOptions{Roots: b.Roots(), CurrentTime: authority.NotBefore.Add(time.Minute)})
				if want := step.want == "both" || step.want == name; (err == nil) != want {
					t.Errorf("%s: the cloud may show a certificate of %q: %v", step.name, name, err)
				}
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestBundleIsNeededAtTheStart(t *testing.T) {
	d := &daemon{err: errors.New("away")}
	if _, err := trust.New(t.Context(), d.fetch, slog.New(slog.DiscardHandler)); !errors.Is(err, d.err) {
		t.Error(err)
	}
	d.set([]byte("nonsense"), nil)
	if _, err := trust.New(t.Context(), d.fetch, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("nonsense is taken")
	}
}

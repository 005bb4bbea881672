package cloud_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func (b *bench) trust(name string, ca *certtest.Authority) {
	b.t.Helper()
	body, err := json.Marshal(rest.Certificate{Properties: rest.CertificateProperties{
		Certificate: rest.EncodeCertificate(ca.Cert.Raw), IsVerified: true}})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.Authorities().Put(b.t.Context(), name, body, registry.Absent); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) show(f *fake, chain ...*x509.Certificate) error {
	s, err := b.Connect(b.t.Context(), head.Login{Identity: dev, Peer: chain}, f)
	if err == nil {
		f.mu.Lock()
		f.session = s
		f.mu.Unlock()
	}
	return err
}

// why tells whether, and why, a client was disconnected by now.
func (f *fake) why() error {
	select {
	case err := <-f.ended:
		return err
	default:
		return nil
	}
}

// A certificate ends its session when it ends itself, and so does any that stands
// over it.
func TestCertificateEndsDuringASession(t *testing.T) {
	tests := map[string]struct {
		leaf, between time.Duration // lives
	}{
		"its own":      {leaf: 10 * time.Minute, between: time.Hour},
		"one above it": {leaf: time.Hour, between: 10 * time.Minute},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, now := newBench(t, nil), time.Now()
				ends := func(d time.Duration) func(*x509.Certificate) {
					return func(c *x509.Certificate) { c.NotAfter = now.Add(d) }
				}
				root := certtest.New(t, "root", now, nil)
				between := certtest.New(t, "between", now, root, ends(tt.between))
				b.trust("ca", root)
				b.device(registry.DeviceChange{DeviceID: "dev", Authentication: &rest.Authentication{Type: rest.AuthCertificate}})
				f := newFake()
				leaf := between.Leaf(t, "dev", now, ends(tt.leaf))
				if err := b.show(f, leaf); !errors.Is(err, head.ErrUnauthorized) {
					t.Errorf("without the one between: %v", err)
				}
				if err := b.show(f, leaf, between.Cert); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10*time.Minute - time.Second)
				if err := f.why(); err != nil {
					t.Errorf("ended early: %v", err)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if err := f.why(); !errors.Is(err, head.ErrExpired) {
					t.Errorf("%v", err)
				}
				if err := b.show(newFake(), leaf, between.Cert); !errors.Is(err, head.ErrUnauthorized) {
					t.Errorf("again: %v", err)
				}
			})
		})
	}
}

// A clock that is set forward does not move timers; the regular check sees it.
func TestClockIsSetForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var moved atomic.Int64
		b := newBench(t, func() time.Time { return time.Now().Add(time.Duration(moved.Load())) })
		ca := certtest.New(t, "ca", time.Now(), nil)
		leaf := ca.Leaf(t, "x", time.Now())
		s1, _ := devicecert.Thumbprints(leaf)
		b.device(registry.DeviceChange{DeviceID: "dev", Authentication: &rest.Authentication{
			X509Thumbprint: rest.X509Thumbprint{PrimaryThumbprint: rest.Text(s1)}}})
		f := newFake()
		if err := b.show(f, leaf); err != nil {
			t.Fatal(err)
		}
		moved.Store(int64(2 * certtest.LeafLife))
		if err := b.show(newFake(), leaf); !errors.Is(err, head.ErrUnauthorized) {
			t.Errorf("anew: %v", err)
		}
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		if err := f.why(); !errors.Is(err, head.ErrExpired) {
			t.Errorf("%v", err)
		}
		moved.Store(int64(-2 * certtest.LeafLife)) // and back, to before it was made
		if err := b.show(newFake(), leaf); !errors.Is(err, head.ErrUnauthorized) {
			t.Errorf("anew: %v", err)
		}
	})
}

func TestSessionsEndWithTheirAuthority(t *testing.T) {
	b := newBench(t, nil)
	ca, other := certtest.New(t, "ca", time.Now(), nil), certtest.New(t, "other", time.Now(), nil)
	b.trust("ca", ca)
	b.trust("other", other)
	b.device(registry.DeviceChange{DeviceID: "dev", Authentication: &rest.Authentication{Type: rest.AuthCertificate}})
	f := newFake()
	if err := b.show(f, ca.Leaf(t, "dev", time.Now())); err != nil {
		t.Fatal(err)
	}
	if err := b.Authorities().Delete(t.Context(), "other", registry.Any); err != nil || f.why() != nil {
		t.Fatalf("%v, ended by %v", err, f.why())
	}
	if err := b.Authorities().Delete(t.Context(), "ca", registry.Any); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, f.ended, "the end"); !errors.Is(err, head.ErrExpired) {
		t.Error(err)
	}
}

package edge_test

import (
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert/certtest"
	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// shown is a login with certificates.
func shown(id iothub.Identity, chain ...*x509.Certificate) head.Login {
	return head.Login{Identity: id, Protocol: "mqtt", Peer: chain}
}

// certified makes of the leaf device one with a thumbprint, and of leaf2 one that
// the trust bundle has signed.
func (d *directory) certified(thumbprint string) {
	d.change(func() {
		for id, change := range map[iothub.Identity]func(*scope.Entry){
			leaf:                           func(e *scope.Entry) { e.Auth, e.Thumbprints = scope.SelfSigned, []string{"", thumbprint} },
			iothub.DeviceIdentity("leaf2"): func(e *scope.Entry) { e.Auth = scope.CertificateAuthority },
		} {
			e := d.entries[id]
			e.Primary = nil
			change(&e)
			d.entries[id] = e
		}
	})
}

// A certificate that ends while its device is connected ends the session at the
// next check of connected clients, as a token does.
func TestCertificatesDuringSessions(t *testing.T) {
	leaf2 := iothub.DeviceIdentity("leaf2")
	var own, stranger *certtest.Authority
	withBundle := func(r *rig, o *edge.Options) {
		own, stranger = certtest.New(t, "ca", time.Now(), nil), certtest.New(t, "ca", time.Now(), nil)
		bundle := x509.NewCertPool()
		bundle.AddCert(own.Cert)
		o.Auth.TrustBundle = func() *x509.CertPool { return bundle }
	}
	within(t, withBundle, func(t *testing.T, r *rig) {
		now := time.Now()
		mine := stranger.Leaf(t, "whatever", now)
		_, thumbprint := devicecert.Thumbprints(mine)
		r.dir.certified(thumbprint)
		time.Sleep(61 * time.Minute) // the scope is fetched again
		now = time.Now()
		fresh := func(c *x509.Certificate) { c.NotBefore = now.Add(-time.Minute) }
		mine = stranger.Leaf(t, "whatever", now, fresh)
		_, thumbprint = devicecert.Thumbprints(mine)
		r.dir.certified(thumbprint)
		signed := own.Leaf(t, "leaf2", now, fresh)
		first, err := r.try(shown(leaf, mine)) // refreshes the identity
		if err != nil {
			t.Fatal(err)
		}
		second, err := r.try(shown(leaf2, signed))
		if err != nil {
			t.Fatal(err)
		}
		for what, l := range map[string]head.Login{
			"another certificate":       shown(leaf, own.Leaf(t, "leaf", now)),
			"signed by a stranger":      shown(leaf2, stranger.Leaf(t, "leaf2", now)),
			"module with a certificate": shown(mod, own.Leaf(t, "mod", now)),
			"not yet valid":             shown(leaf2, own.Leaf(t, "leaf2", now, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) })),
		} {
			if _, err := r.try(l); !errors.Is(err, head.ErrUnauthorized) {
				t.Errorf("%s: %v", what, err)
			}
		}
		time.Sleep(certtest.LeafLife - time.Second)
		if first.why() != nil || second.why() != nil {
			t.Errorf("ended early: %v, %v", first.why(), second.why())
		}
		time.Sleep(5*time.Minute + time.Second)
		if !errors.Is(first.why(), head.ErrExpired) || !errors.Is(second.why(), head.ErrExpired) {
			t.Errorf("outlived their certificates: %v, %v", first.why(), second.why())
		}
		if _, err := r.try(shown(leaf, mine)); !errors.Is(err, head.ErrUnauthorized) {
			t.Errorf("ended certificate: %v", err)
		}
	})
}

func TestCertificatesWithoutTheCloud(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		ca := certtest.New(t, "ca", time.Now(), nil)
		mine := ca.Leaf(t, "leaf", time.Now())
		s1, _ := devicecert.Thumbprints(mine)
		r.dir.certified(s1)
		bundle := func(_ *rig, o *edge.Options) {
			bundle := x509.NewCertPool()
			bundle.AddCert(ca.Cert)
			o.Auth.TrustBundle = func() *x509.CertPool { return bundle }
		}
		r.start(bundle)
		r.cloud.set(true)
		r.stop()
		r.cloud.set(false)
		r.dir.change(func() { r.dir.away = true })
		r.start(bundle)
		for id, c := range map[string]*x509.Certificate{"leaf": mine, "leaf2": ca.Leaf(t, "leaf2", time.Now())} {
			if _, err := r.try(shown(iothub.DeviceIdentity(id), c)); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
	})
}

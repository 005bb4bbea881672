// Package authority keeps the list of the hub's certificate authorities: those
// whose signature lets a device in when it is registered to authenticate by
// certificate authority (spec iothub-service 3.2). An authority counts once it is
// verified: its operator has said so, or has proved to hold its key by signing a
// certificate with a name that the hub chose.
package authority

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/devicecert"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Codes of refusals besides those of the registry.
const (
	NotFound registry.Code = "CertificateNotFound"
	Exists   registry.Code = "CertificateAlreadyExists"
	TooMany  registry.Code = "CertificateCountLimitExceeded"
)

// Max is how many authorities a hub has at most.
const Max = 100

// List is the list. All methods may be called concurrently. Refusals are
// *registry.Error.
type List struct {
	bucket  store.Bucket
	now     func() time.Time
	changed func()

	write sync.Mutex // held by one writer, over the fsync; before mu
	mu    sync.RWMutex
	all   map[string]entry // guarded by mu
	pool  *x509.CertPool   // guarded by mu; of those that are verified; replaced, never changed
}

// entry is one authority.
type entry struct {
	doc  rest.Certificate
	cert *x509.Certificate
}

// Open reads the list in s. changed, if not nil, is called when an authority that
// counted counts no more.
func Open(s *store.Store, now func() time.Time, changed func()) (*List, error) {
	if now == nil {
		now = time.Now
	}
	if changed == nil {
		changed = func() {}
	}
	l := &List{bucket: s.Bucket("cloud.authorities"), now: now, changed: changed, all: map[string]entry{}}
	err := l.bucket.Scan("", func(name string, value []byte) error {
		var e entry
		err := json.Unmarshal(value, &e.doc)
		if err == nil {
			e.cert, err = devicecert.Parse(e.doc.Properties.Certificate)
		}
		if err != nil {
			return fmt.Errorf("certificate %s: %w", name, err)
		}
		l.all[name] = e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	l.publish()
	return l, nil
}

// publish makes the pool anew; mu is held, or nobody else has l.
func (l *List) publish() {
	l.pool = x509.NewCertPool()
	for _, e := range l.all {
		if e.doc.Properties.IsVerified {
			l.pool.AddCert(e.cert)
		}
	}
}

// Pool returns the authorities that count now.
func (l *List) Pool() *x509.CertPool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.pool
}

// Verified returns the certificate of an authority that counts.
func (l *List) Verified(name string) (*x509.Certificate, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	e, ok := l.all[name]
	return e.cert, ok && e.doc.Properties.IsVerified
}

// Get returns one authority.
func (l *List) Get(name string) (rest.Certificate, error) {
	e, err := l.find(name)
	return e.doc, err
}

func (l *List) find(name string) (entry, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	e, ok := l.all[name]
	if !ok {
		return e, refuse(NotFound, "there is no certificate of this name")
	}
	return e, nil
}

// All returns the authorities by name.
func (l *List) All() []rest.Certificate {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := []rest.Certificate{}
	for _, name := range slices.Sorted(maps.Keys(l.all)) {
		out = append(out, l.all[name].doc)
	}
	return out
}

func refuse(c registry.Code, format string, args ...any) error {
	return &registry.Error{Code: c, Text: fmt.Sprintf(format, args...)}
}

// Put adds an authority or, as m says, replaces one. body is a rest.Certificate, of
// which certificate and isVerified are read.
func (l *List) Put(ctx context.Context, name string, body []byte, m registry.Match) (rest.Certificate, error) {
	cert, verified, err := parse(name, body)
	if err != nil {
		return rest.Certificate{}, err
	}
	l.write.Lock()
	defer l.write.Unlock()
	old, err := l.find(name)
	exists := err == nil
	switch {
	case exists && m.IsAbsent():
		return rest.Certificate{}, refuse(Exists, "there is a certificate of this name already")
	case !exists && !m.IsAbsent():
		return rest.Certificate{}, err
	case exists && !m.Allows(old.doc.Etag):
		return rest.Certificate{}, refuse(registry.PreconditionFailed, "the certificate has another etag")
	case !exists && len(l.All()) >= Max:
		return rest.Certificate{}, refuse(TooMany, "there are %d certificates already", Max)
	}
	now := rest.Time{Time: l.now().UTC()}
	_, s256 := devicecert.Thumbprints(cert)
	e := entry{cert: cert, doc: rest.Certificate{Name: name, Etag: registry.NewEtag(old.doc.Etag), Properties: rest.CertificateProperties{
		Subject: cert.Subject.String(), Expiry: rest.Time{Time: cert.NotAfter.UTC()}, Thumbprint: s256, IsVerified: verified,
		Created: now, Updated: now, Certificate: rest.EncodeCertificate(cert.Raw),
	}}}
	if exists {
		e.doc.Properties.Created = old.doc.Properties.Created
	}
	return e.doc, l.save(ctx, e, old.doc.Properties.IsVerified)
}

// parse reads the body of a Put.
func parse(name string, body []byte) (*x509.Certificate, bool, error) {
	if iothub.CheckID(name) != nil || len(name) > 64 {
		return nil, false, refuse(registry.ArgumentInvalid, "the name of a certificate is an id of at most 64 characters")
	}
	cert, verified, err := parseBody(body)
	if err != nil {
		return nil, false, err
	}
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return nil, false, refuse(registry.ArgumentInvalid, "the certificate is not that of an authority")
	}
	return cert, verified, nil
}

func parseBody(body []byte) (*x509.Certificate, bool, error) {
	var in rest.Certificate
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, false, refuse(registry.ArgumentInvalid, "the body is not a certificate document")
	}
	text := in.Properties.Certificate
	if text == "" {
		text = in.Certificate
	}
	cert, err := devicecert.Parse(text)
	if err != nil {
		return nil, false, refuse(registry.ArgumentInvalid, "%v", err)
	}
	return cert, in.Properties.IsVerified, nil
}

// save writes an entry; the caller holds write. counted tells whether one of its
// name counted before.
func (l *List) save(ctx context.Context, e entry, counted bool) error {
	raw, err := json.Marshal(e.doc)
	if err != nil {
		return fmt.Errorf("encode certificate: %w", err)
	}
	// Not the caller's context: the end of the write must be known.
	if err := l.bucket.Put(context.WithoutCancel(ctx), e.doc.Name, raw); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	l.mu.Lock()
	l.all[e.doc.Name] = e
	l.publish()
	l.mu.Unlock()
	if counted {
		l.changed()
	}
	return nil
}

// Code makes a verification code: the common name of the certificate that the key
// of the authority must sign. An earlier code is good no more.
func (l *List) Code(ctx context.Context, name string, m registry.Match) (rest.Certificate, error) {
	return l.update(ctx, name, m, func(e *entry) error {
		var b [24]byte
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		e.doc.Properties.VerificationCode = strings.ToUpper(hex.EncodeToString(b[:]))
		return nil
	})
}

// Verify takes the proof: a certificate with the code as its common name that the
// authority has signed.
func (l *List) Verify(ctx context.Context, name string, body []byte, m registry.Match) (rest.Certificate, error) {
	proof, _, err := parseBody(body)
	if err != nil {
		return rest.Certificate{}, err
	}
	return l.update(ctx, name, m, func(e *entry) error {
		code := e.doc.Properties.VerificationCode
		switch {
		case code == "":
			return refuse(registry.InvalidOperation, "there is no verification code; ask for one")
		case subtle.ConstantTimeCompare([]byte(proof.Subject.CommonName), []byte(code)) != 1:
			return refuse(registry.ArgumentInvalid, "the common name is not the verification code")
		case devicecert.CheckTime(proof, l.now()) != nil:
			return refuse(registry.ArgumentInvalid, "the proof is outside its time")
		case proof.CheckSignatureFrom(e.cert) != nil:
			return refuse(registry.ArgumentInvalid, "the proof is not signed by the certificate")
		}
		e.doc.Properties.IsVerified, e.doc.Properties.VerificationCode = true, ""
		return nil
	})
}

func (l *List) update(ctx context.Context, name string, m registry.Match, change func(*entry) error) (rest.Certificate, error) {
	l.write.Lock()
	defer l.write.Unlock()
	e, err := l.find(name)
	if err != nil {
		return rest.Certificate{}, err
	}
	if !m.Allows(e.doc.Etag) {
		return rest.Certificate{}, refuse(registry.PreconditionFailed, "the certificate has another etag")
	}
	if err := change(&e); err != nil {
		return rest.Certificate{}, err
	}
	e.doc.Etag, e.doc.Properties.Updated = registry.NewEtag(e.doc.Etag), rest.Time{Time: l.now().UTC()}
	return e.doc, l.save(ctx, e, false)
}

// Delete removes an authority.
func (l *List) Delete(ctx context.Context, name string, m registry.Match) error {
	l.write.Lock()
	defer l.write.Unlock()
	e, err := l.find(name)
	if err != nil {
		return err
	}
	if !m.Allows(e.doc.Etag) {
		return refuse(registry.PreconditionFailed, "the certificate has another etag")
	}
	if err := l.bucket.Delete(context.WithoutCancel(ctx), name); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	l.mu.Lock()
	delete(l.all, name)
	l.publish()
	l.mu.Unlock()
	l.changed()
	return nil
}

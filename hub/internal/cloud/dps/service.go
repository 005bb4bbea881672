package dps

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// DefaultIDScope is the scope of a service whose operator has chosen none.
const DefaultIDScope = "0ne00000000"

// maxGroups bounds the enrollment groups, since a registration may have to be
// compared with all of them.
const maxGroups = 100

// Options configure Open. Hub and HubName are required.
type Options struct {
	// Hub is where devices are assigned to, and HubName how they find it.
	Hub     *cloud.Hub
	HubName string
	// IDScope is the name of this service in paths and tokens of devices; "" means
	// DefaultIDScope.
	IDScope string
	// AssignDelay is how long a registration is shown as being assigned.
	AssignDelay time.Duration
	// Now is the clock; nil means time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Service is the provisioning service. All methods may be called concurrently.
type Service struct {
	o             Options
	log           *slog.Logger
	store         *store.Store
	enrollments   store.Bucket
	registrations store.Bucket
	secret        sas.Key // see proofKey
	hooks         *http.Client
	seed          maphash.Seed
	// shards serialise what is done for one registration.
	shards [64]sync.Mutex

	// write is held by one writer of enrollments, over the fsync. Lock order: write,
	// mu.
	write sync.Mutex
	mu    sync.RWMutex           // guards the map; its values never change
	byKey map[string]*enrollment // see individualKey and groupKey
}

// Open reads the enrollments in s.
func Open(s *store.Store, o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.IDScope == "" {
		o.IDScope = DefaultIDScope
	}
	if err := checkID(o.IDScope); err != nil {
		return nil, fmt.Errorf("id scope: %w", err)
	}
	d := &Service{o: o, log: o.Logger, store: s, enrollments: s.Bucket("dps.enrollments"),
		registrations: s.Bucket("dps.registrations"), seed: maphash.MakeSeed(), hooks: hookClient(), byKey: map[string]*enrollment{}}
	err := d.enrollments.Scan("", func(key string, value []byte) error {
		e, err := decodeEnrollment(key, value)
		if err != nil {
			return fmt.Errorf("enrollment %s: %w", key, err)
		}
		d.byKey[key] = e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("provisioning service: %w", err)
	}
	if d.secret, err = openSecret(s.Bucket("dps.secret")); err != nil {
		return nil, fmt.Errorf("provisioning service: %w", err)
	}
	return d, nil
}

// hookClient calls web hooks of custom allocation. It keeps no connections, so that
// the service has nothing to close.
func hookClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: hookTimeout / 2},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// openSecret reads the secret of the service, or makes it.
func openSecret(b store.Bucket) (sas.Key, error) {
	secret, err := b.Get("proof")
	if errors.Is(err, store.ErrNotFound) {
		secret = make([]byte, 32)
		_, _ = rand.Read(secret) // never fails, see crypto/rand
		err = b.Put(context.Background(), "proof", secret)
	}
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	return sas.Key(secret), nil
}

// Keys of enrollments in the store. Registration ids are the same in any case.
func individualKey(id string) string { return "i/" + strings.ToLower(id) }
func groupKey(id string) string      { return "g/" + id }

func (e *enrollment) key() string {
	if e.group {
		return groupKey(e.id)
	}
	return individualKey(e.id)
}

func decodeEnrollment(key string, value []byte) (*enrollment, error) {
	var id struct {
		RegistrationID    string `json:"registrationId"`
		EnrollmentGroupID string `json:"enrollmentGroupId"`
	}
	if err := json.Unmarshal(value, &id); err != nil {
		return nil, err
	}
	if strings.HasPrefix(key, groupKey("")) {
		return parseGroup(id.EnrollmentGroupID, value, nil)
	}
	return parseEnrollment(id.RegistrationID, value, nil)
}

func (d *Service) find(key string) (*enrollment, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e, ok := d.byKey[key]
	return e, ok
}

// list returns enrollments or groups by id.
func (d *Service) list(prefix string) []*enrollment {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var out []*enrollment
	for _, key := range slices.Sorted(maps.Keys(d.byKey)) {
		if strings.HasPrefix(key, prefix) {
			out = append(out, d.byKey[key])
		}
	}
	return out
}

// put creates or updates an enrollment, as m says. parse reads the request, given
// what is stored.
func (d *Service) put(ctx context.Context, key string, m registry.Match, parse func(old *enrollment) (*enrollment, error)) (*enrollment, error) {
	d.write.Lock()
	defer d.write.Unlock()
	old, exists := d.find(key)
	switch {
	case exists && m.IsAbsent():
		return nil, refuse(codeExists, "the enrollment exists already")
	case !exists && !m.IsAbsent():
		return nil, errNoEnrollment()
	case exists && !m.Allows(old.terms.Etag):
		return nil, refuse(codePrecondition, "the enrollment has another etag")
	}
	e, err := parse(old)
	if err != nil {
		return nil, err
	}
	if !exists && e.group && len(d.list(groupKey(""))) >= maxGroups {
		return nil, refuse(codeTooMany, "there are %d enrollment groups already", maxGroups)
	}
	now := rest.Time{Time: d.o.Now().UTC()}
	e.terms.CreatedDateTimeUTC, e.terms.LastUpdatedUTC, e.terms.Etag = now, now, registry.NewEtag("")
	if exists {
		e.terms.CreatedDateTimeUTC, e.terms.Etag = old.terms.CreatedDateTimeUTC, registry.NewEtag(old.terms.Etag)
		e.id = old.id
	}
	raw, err := json.Marshal(e.document())
	if err != nil {
		return nil, fmt.Errorf("encode enrollment: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Not the caller's context: the end of the write must be known.
	if err := d.enrollments.Put(context.WithoutCancel(ctx), key, raw); err != nil {
		return nil, fmt.Errorf("write enrollment: %w", err)
	}
	d.mu.Lock()
	d.byKey[key] = e
	d.mu.Unlock()
	return e, nil
}

func errNoEnrollment() error { return refuse(codeNoEnrollment, "the enrollment does not exist") }

// remove deletes an enrollment and the registrations that it let in; the devices
// stay in the hub.
func (d *Service) remove(ctx context.Context, key string, m registry.Match) error {
	d.write.Lock()
	defer d.write.Unlock()
	old, exists := d.find(key)
	switch {
	case !exists:
		return errNoEnrollment()
	case !m.Allows(old.terms.Etag):
		return refuse(codePrecondition, "the enrollment has another etag")
	}
	var b store.Batch
	b.Delete(d.enrollments.Key(key), 0)
	err := d.scanRegistrations(func(id string, r *record) {
		if r.Enrollment == key {
			b.Delete(d.registrations.Key(id), 0)
		}
	})
	if err != nil {
		return err
	}
	if err := d.store.CommitWait(context.WithoutCancel(ctx), &b); err != nil {
		return fmt.Errorf("write enrollment: %w", err)
	}
	d.mu.Lock()
	delete(d.byKey, key)
	d.mu.Unlock()
	return nil
}

// lock serialises the work for one registration.
func (d *Service) lock(id string) (release func()) {
	shard := &d.shards[maphash.String(d.seed, strings.ToLower(id))%uint64(len(d.shards))]
	shard.Lock()
	return shard.Unlock
}

// record is a registration as it is stored.
type record struct {
	// Enrollment is the key of the enrollment that let the device in.
	Enrollment string `json:"enrollment"`
	// Device is what the enrollment has assigned before, whatever came after; "" if
	// nothing.
	Device    string                 `json:"device,omitempty"`
	Operation string                 `json:"operation"`
	Ready     time.Time              `json:"ready"` // until then it is shown as being assigned
	State     rest.RegistrationState `json:"state"`
	TPM       *tpmKeys               `json:"tpm,omitempty"` // of the device, for later questions
}

// load reads a registration; nil if there is none.
func (d *Service) load(id string) (*record, error) {
	raw, err := d.registrations.Get(strings.ToLower(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	r := new(record)
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("registration %s: %w", id, err)
	}
	return r, nil
}

func (d *Service) save(ctx context.Context, r *record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode registration: %w", err)
	}
	if err := d.registrations.Put(context.WithoutCancel(ctx), strings.ToLower(r.State.RegistrationID), raw); err != nil {
		return fmt.Errorf("write registration: %w", err)
	}
	return nil
}

// scanRegistrations calls f for each registration by id.
func (d *Service) scanRegistrations(f func(id string, r *record)) error {
	err := d.registrations.Scan("", func(id string, value []byte) error {
		r := new(record)
		if err := json.Unmarshal(value, r); err != nil {
			return fmt.Errorf("registration %s: %w", id, err)
		}
		f(id, r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("registrations: %w", err)
	}
	return nil
}

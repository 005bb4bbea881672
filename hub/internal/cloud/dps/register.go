package dps

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// claim is what a device says of itself with each request.
type claim struct {
	scope, id string // of the path
	token     string // Authorization header; may be empty
	peer      []*x509.Certificate
	request   registration
}

// registration is the body of a request of a device.
type registration struct {
	RegistrationID string          `json:"registrationId"`
	Payload        json.RawMessage `json:"payload"`
	TPM            *tpmKeys        `json:"tpm"`
}

// parseRegistration reads the body of a registration for the id of the path. An
// empty body asks for nothing special.
func parseRegistration(id string, body []byte) (registration, error) {
	var r registration
	if len(strings.TrimSpace(string(body))) == 0 {
		return r, nil
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return registration{}, invalid("the body is not a registration")
	}
	if r.RegistrationID != "" && !strings.EqualFold(r.RegistrationID, id) {
		return registration{}, invalid("registrationId of the body is not that of the path")
	}
	return r, nil
}

// register lets a device in and assigns it to the hub.
func (d *Service) register(ctx context.Context, c claim) (rest.RegistrationOperation, error) {
	a, err := d.attest(c)
	if err != nil {
		return rest.RegistrationOperation{}, err
	}
	defer d.lock(c.id)()
	old, err := d.load(c.id)
	if err != nil {
		return rest.RegistrationOperation{}, err
	}
	state, err := d.assign(ctx, c, a, old)
	if err != nil {
		return rest.RegistrationOperation{}, err
	}
	r := &record{Enrollment: a.enrollment.key(), TPM: a.tpm, Operation: newOperation(), Ready: d.o.Now().Add(d.o.AssignDelay), State: state}
	switch {
	case state.Status == rest.RegistrationAssigned:
		r.Device = state.DeviceID
	case old != nil && old.Enrollment == r.Enrollment:
		r.Device = old.Device
	}
	if err := d.save(ctx, r); err != nil {
		return rest.RegistrationOperation{}, err
	}
	d.log.Info("registered", "registration", c.id, "enrollment", a.enrollment.id, "status", state.Status,
		"substatus", state.Substatus, "device", state.DeviceID, "error", state.ErrorMessage)
	return rest.RegistrationOperation{OperationID: r.Operation, Status: rest.RegistrationAssigning}, nil
}

// poll tells how far an operation is.
func (d *Service) poll(c claim, operation string) (rest.RegistrationOperation, error) {
	r, err := d.registered(c)
	if err != nil {
		return rest.RegistrationOperation{}, err
	}
	if r.Operation != operation {
		return rest.RegistrationOperation{}, refuse(codeNoRegistration, "the operation is not known")
	}
	state := d.shown(r)
	return rest.RegistrationOperation{OperationID: r.Operation, Status: state.Status, RegistrationState: &state}, nil
}

// lookUp returns the state of a registration to its device.
func (d *Service) lookUp(c claim) (rest.RegistrationState, error) {
	r, err := d.registered(c)
	if err != nil {
		return rest.RegistrationState{}, err
	}
	return d.shown(r), nil
}

func (d *Service) registered(c claim) (*record, error) {
	if _, err := d.attest(c); err != nil {
		return nil, err
	}
	r, err := d.load(c.id)
	if err == nil && r == nil {
		err = refuse(codeNoRegistration, notRegisteredFormat, c.id)
	}
	return r, err
}

// shown is the state of a registration as a device may see it now.
func (d *Service) shown(r *record) rest.RegistrationState {
	if d.o.Now().Before(r.Ready) {
		return rest.RegistrationState{RegistrationID: r.State.RegistrationID, Status: rest.RegistrationAssigning}
	}
	return r.State
}

// newOperation returns a name that nobody can guess and no URL has to escape.
func newOperation() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	g := hex.EncodeToString(b[8:])
	return fmt.Sprintf("5.%s.%s-%s-%s-%s-%s", hex.EncodeToString(b[:8]), g[:8], g[8:12], g[12:16], g[16:20], g[20:])
}

// newState begins the state of a registration.
func (d *Service) newState(c claim, old *record) rest.RegistrationState {
	now := rest.Time{Time: d.o.Now().UTC().Truncate(100 * time.Nanosecond)}
	s := rest.RegistrationState{RegistrationID: c.id, CreatedDateTimeUTC: now, LastUpdatedUTC: now, Etag: registry.NewEtag("")}
	if old != nil {
		s.RegistrationID, s.CreatedDateTimeUTC, s.Etag = old.State.RegistrationID, old.State.CreatedDateTimeUTC, registry.NewEtag(old.State.Etag)
	}
	return s
}

package dps

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// Sizes of symmetric keys, in bytes.
const minKey, maxKey = 16, 64

// enrollment is a stored enrollment, individual or group, ready for use. It is
// replaced, never changed.
type enrollment struct {
	id     string // registration id or group id
	device string // id of the device; "" in groups
	group  bool
	terms  rest.EnrollmentTerms
	// What the attestation says, by its type.
	keys        []sas.Key
	certs       []*x509.Certificate // of the device; in groups of authorities
	references  []string            // names of authorities of the hub
	endorsement storageKey          // of the device's TPM
}

func (e *enrollment) enabled() bool { return e.terms.ProvisioningStatus == rest.Enabled }

func (e *enrollment) document() any {
	if e.group {
		return e.groupDocument()
	}
	return e.individual()
}

func (e *enrollment) groupDocument() rest.EnrollmentGroup {
	return rest.EnrollmentGroup{EnrollmentGroupID: e.id, EnrollmentTerms: e.terms}
}

func (e *enrollment) individual() rest.Enrollment {
	return rest.Enrollment{RegistrationID: e.id, DeviceID: e.device, EnrollmentTerms: e.terms}
}

// checkID tells whether a registration or group has a name that the service takes.
func checkID(id string) error {
	if id == "" || len(id) > iothub.MaxIDLength {
		return invalid("an id has 1 to %d characters", iothub.MaxIDLength)
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-._:", rune(c)) {
			return invalid("an id has letters, digits and -._: only")
		}
	}
	return nil
}

// parseEnrollment reads an individual enrollment for the id that a path names; old
// is what is stored, or nil.
func parseEnrollment(id string, body []byte, old *enrollment) (*enrollment, error) {
	var doc rest.Enrollment
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, invalid("the body is not an enrollment")
	}
	if doc.RegistrationID != "" && !strings.EqualFold(doc.RegistrationID, id) {
		return nil, invalid("registrationId of the body is not that of the path")
	}
	if doc.DeviceID != "" && iothub.CheckID(doc.DeviceID) != nil {
		return nil, invalid("deviceId is not valid")
	}
	return complete(&enrollment{id: id, device: doc.DeviceID, terms: doc.EnrollmentTerms}, old)
}

// parseGroup is parseEnrollment for groups.
func parseGroup(id string, body []byte, old *enrollment) (*enrollment, error) {
	var doc rest.EnrollmentGroup
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, invalid("the body is not an enrollment group")
	}
	if doc.EnrollmentGroupID != "" && doc.EnrollmentGroupID != id {
		return nil, invalid("enrollmentGroupId of the body is not that of the path")
	}
	return complete(&enrollment{id: id, group: true, terms: doc.EnrollmentTerms}, old)
}

// complete checks an enrollment and fills in what was left out.
func complete(e, old *enrollment) (*enrollment, error) {
	if err := checkID(e.id); err != nil {
		return nil, err
	}
	if err := e.completePolicies(); err != nil {
		return nil, err
	}
	a := &e.terms.Attestation
	a.Type = attestationType(*a)
	var err error
	switch a.Type {
	case rest.AttestKey:
		var before *rest.SymmetricKey
		if old != nil {
			before = old.terms.Attestation.SymmetricKey
		}
		e.terms.Attestation, e.keys, err = completeKeys(*a, before)
	case rest.AttestX509:
		err = completeX509(e)
	case rest.AttestTPM:
		err = completeTPM(e)
	default:
		err = invalid("attestation type %.40q is not supported", a.Type)
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (e *enrollment) completePolicies() error {
	t := &e.terms
	switch strings.ToLower(t.ProvisioningStatus) {
	case "", rest.Enabled:
		t.ProvisioningStatus = rest.Enabled
	case rest.Disabled:
		t.ProvisioningStatus = rest.Disabled
	default:
		return invalid("provisioningStatus is neither enabled nor disabled")
	}
	if t.Capabilities == nil {
		t.Capabilities = &rest.Capabilities{}
	}
	if t.ReprovisionPolicy == nil {
		t.ReprovisionPolicy = &rest.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}
	}
	if len(t.ParentScopes) > 1 {
		return invalid("a device has one parent at most")
	}
	if isNull(t.InitialTwin) {
		t.InitialTwin = nil
	} else {
		if _, err := twin.ParseChange(t.InitialTwin); err != nil {
			return invalid("initialTwin: %v", err)
		}
	}
	return completeAllocation(t)
}

// completeAllocation checks how the hub is chosen. There is one hub, so every policy
// chooses it; a custom one may refuse.
func completeAllocation(t *rest.EnrollmentTerms) error {
	policies := []string{rest.AllocateHashed, rest.AllocateStatic, rest.AllocateLatency, rest.AllocateCustom}
	if t.AllocationPolicy == "" {
		t.AllocationPolicy = rest.AllocateHashed
	}
	i := slices.IndexFunc(policies, func(p string) bool { return strings.EqualFold(p, t.AllocationPolicy) })
	if i < 0 {
		return invalid("allocationPolicy %.40q is not supported", t.AllocationPolicy)
	}
	t.AllocationPolicy = policies[i]
	if t.AllocationPolicy == rest.AllocateCustom {
		return checkHook(t.Custom)
	}
	return nil
}

func attestationType(a rest.Attestation) string {
	for _, kind := range []string{rest.AttestKey, rest.AttestX509, rest.AttestTPM} {
		if strings.EqualFold(a.Type, kind) {
			return kind
		}
	}
	switch {
	case a.Type != "":
		return a.Type
	case a.X509 != nil:
		return rest.AttestX509
	case a.TPM != nil:
		return rest.AttestTPM
	}
	return rest.AttestKey
}

// completeKeys makes the keys that a request leaves out: those of before stay, new
// ones are random.
func completeKeys(a rest.Attestation, before *rest.SymmetricKey) (rest.Attestation, []sas.Key, error) {
	if before == nil {
		before = &rest.SymmetricKey{}
	}
	if a.SymmetricKey == nil {
		a.SymmetricKey = &rest.SymmetricKey{}
	}
	out := &rest.SymmetricKey{}
	var keys []sas.Key
	for _, k := range []struct {
		given, before rest.Secret
		to            *rest.Secret
	}{
		{a.SymmetricKey.PrimaryKey, before.PrimaryKey, &out.PrimaryKey},
		{a.SymmetricKey.SecondaryKey, before.SecondaryKey, &out.SecondaryKey},
	} {
		switch {
		case k.given != "":
			*k.to = k.given
		case k.before != "":
			*k.to = k.before
		default:
			*k.to = rest.Secret(registry.NewKey())
		}
		raw, err := base64.StdEncoding.DecodeString(k.to.Reveal())
		if err != nil || len(raw) < minKey || len(raw) > maxKey {
			return a, nil, invalid("a symmetric key must be base64 of %d to %d bytes", minKey, maxKey)
		}
		keys = append(keys, sas.Key(raw))
	}
	return rest.Attestation{Type: rest.AttestKey, SymmetricKey: out}, keys, nil
}

package dps

import (
	"crypto/x509"
	"encoding/json"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// keyName is what tokens of registrations name as their key.
const keyName = "registration"

// admission is the right of a device to be registered.
type admission struct {
	enrollment *enrollment
	// credentials are what the device will show to the hub; nil for a key that the
	// registry makes and the device does not know.
	credentials *rest.Authentication
	// leaf is the certificate that the device has shown, if it has.
	leaf *x509.Certificate
	// root and tpm are the keys of the device's TPM, if it has shown one.
	root storageKey
	tpm  *tpmKeys
	// initial is the twin of a device that is new.
	initial json.RawMessage
}

// device is the id that the device gets in the hub.
func (a *admission) device(registration string) string {
	if a.enrollment.device != "" {
		return a.enrollment.device
	}
	return registration
}

// attest checks who a device is. An individual enrollment of its registration id
// decides alone; only without one the groups are looked at. Refusals do not tell
// what exists: that goes to the log.
func (d *Service) attest(c claim) (*admission, error) {
	if err := checkID(c.id); err != nil {
		return nil, err
	}
	if c.token == "" && c.request.TPM != nil && c.scope == d.o.IDScope {
		return nil, d.challenge(c)
	}
	a, reason := d.decide(c)
	if reason != "" {
		d.log.Info("registration refused", "registration", c.id, "reason", reason)
		return nil, errUnauthorized()
	}
	if !a.enrollment.enabled() {
		d.log.Info("registration refused", "registration", c.id, "reason", "the enrollment is disabled")
		return nil, refuse(codeDisabled, "the enrollment is disabled")
	}
	return a, nil
}

// decide returns the enrollment that lets a device in, or why there is none.
func (d *Service) decide(c claim) (a *admission, reason string) {
	if c.scope != d.o.IDScope {
		return nil, "the id scope is another one"
	}
	switch {
	case c.token != "":
		return d.byToken(c)
	case len(c.peer) > 0:
		return d.byCertificate(c)
	}
	return nil, "no credentials"
}

func (d *Service) byToken(c claim) (a *admission, reason string) {
	t, reason := d.token(c)
	if reason != "" {
		return nil, reason
	}
	if e, ok := d.find(individualKey(c.id)); ok {
		switch e.terms.Attestation.Type {
		case rest.AttestKey:
		case rest.AttestTPM:
			return d.byTPM(c, t)
		default:
			return nil, "the enrollment wants " + e.terms.Attestation.Type
		}
		if !verify(t, e.keys) {
			return nil, "the signature does not match the keys of the enrollment"
		}
		k := e.terms.Attestation.SymmetricKey
		return &admission{enrollment: e, credentials: rest.SAS(k.PrimaryKey.Reveal(), k.SecondaryKey.Reveal())}, ""
	}
	var disabled *admission
	for _, e := range d.list(groupKey("")) {
		keys, ok := derived(t, e.keys, c.id)
		if !ok {
			continue
		}
		a := &admission{enrollment: e, credentials: rest.SAS(keys[0].Base64(), keys[1].Base64())}
		if e.enabled() {
			return a, ""
		}
		disabled = a
	}
	if disabled == nil {
		return nil, "no enrollment, and the signature matches the key of no group"
	}
	return disabled, ""
}

// token reads a token and checks all that needs no key.
func (d *Service) token(c claim) (t sas.Token, reason string) {
	t, err := sas.Parse(c.token)
	if err != nil {
		return t, err.Error()
	}
	path := t.Path()
	switch {
	case t.Expired(d.o.Now()):
		return t, "the token has expired"
	case !strings.EqualFold(t.KeyName, keyName):
		return t, "the token names another key than " + keyName
	case len(path) != 3, path[0] != c.scope, !strings.EqualFold(path[1], "registrations"), !strings.EqualFold(path[2], c.id):
		return t, "the token is for another resource"
	}
	return t, ""
}

// verify compares with all keys, so that time does not tell which one was right.
func verify(t sas.Token, keys []sas.Key) bool {
	ok := false
	for _, k := range keys {
		ok = t.Verify(k) || ok
	}
	return ok
}

// derived returns the keys that a group's keys give to a registration, if one of
// them has signed the token. Ids are the same in any case, so a device may have
// derived its key from either form.
func derived(t sas.Token, group []sas.Key, id string) (keys []sas.Key, ok bool) {
	for _, form := range []string{id, strings.ToLower(id)} {
		keys = keys[:0]
		for _, k := range group {
			keys = append(keys, k.Derive(form))
		}
		if verify(t, keys) {
			return keys, true
		}
	}
	return nil, false
}

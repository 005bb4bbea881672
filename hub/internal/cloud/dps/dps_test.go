package dps_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/api"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/dps"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/pki"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

const (
	host  = "hub.test"
	scope = dps.DefaultIDScope
)

// world is a hub with its provisioning service behind real TLS. Its clock stands
// still until it is moved.
type world struct {
	t        testing.TB
	service  *dps.Service
	dir      string
	store    *store.Store
	hub      *cloud.Hub
	https    *httptest.Server
	roots    *x509.CertPool
	policies access.Policies
	moved    atomic.Int64 // how far the clock is moved
	started  time.Time
	log      *bytes.Buffer
}

func (w *world) now() time.Time       { return w.started.Add(time.Duration(w.moved.Load())) }
func (w *world) move(d time.Duration) { w.moved.Add(int64(d)) }

func start(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), started: time.Now(), log: new(bytes.Buffer)}
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.store, err = store.Open(filepath.Join(w.dir), store.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		w.t.Fatal(err)
	}
	if w.policies, err = access.LoadPolicies(filepath.Join(w.dir, "policies"), true); err != nil {
		w.t.Fatal(err)
	}
	certificates, err := pki.Open(w.dir, []string{host}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.roots = x509.NewCertPool()
	w.roots.AddCert(certificates.Root())
	if w.hub, err = cloud.Open(w.store, cloud.Options{Hosts: []string{host}, Policies: w.policies, Now: w.now}); err != nil {
		w.t.Fatal(err)
	}
	w.service, err = dps.Open(w.store, dps.Options{Hub: w.hub, HubName: host, AssignDelay: time.Second, Now: w.now,
		Logger: slog.New(slog.NewTextHandler(w.log, nil))})
	if err != nil {
		w.t.Fatal(err)
	}
	w.https = httptest.NewUnstartedServer(w.service.Handler(api.New(w.hub, api.Options{})))
	w.https.TLS = certificates.TLS()
	w.https.StartTLS()
}

func (w *world) close() {
	w.https.Close()
	_ = w.store.Close()
}

// reopen does what a restart of the process does.
func (w *world) reopen() {
	w.t.Helper()
	w.close()
	w.open()
}

func (w *world) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, w.https.Listener.Addr().String())
}

func (w *world) policyToken(name string) string {
	w.t.Helper()
	token, err := sas.New(sas.HubResource(host), w.now().Add(time.Hour), name, w.policies[name].Primary.Sign)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func (w *world) policy(name string) *rest.Client {
	w.t.Helper()
	c, err := rest.New(rest.Options{HubName: host, RootCAs: w.roots, Dial: w.dial, Attempts: 1,
		Authorize: func(context.Context) (string, error) { return w.policyToken(name), nil }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

func (w *world) owner() *rest.Client { return w.policy(access.Owner) }

// call makes one raw request to the host name of the service in the cloud.
func (w *world) call(method, path, token, body string, certificate ...tls.Certificate) (*http.Response, string) {
	w.t.Helper()
	tr := &http.Transport{DialContext: w.dial, TLSClientConfig: &tls.Config{RootCAs: w.roots, ServerName: host, Certificates: certificate}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "https://global.azure-devices-provisioning.net"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(raw)
}

// device is a client that registers.
type device struct {
	w            *world
	id           string
	key          sas.Key
	certificates []tls.Certificate
	scope        string
	body         string
}

func (w *world) keyed(id, key string) *device {
	w.t.Helper()
	k, err := sas.ParseKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	return &device{w: w, id: id, key: k, scope: scope}
}

func (d *device) token() string {
	if d.key == nil {
		return ""
	}
	token, err := sas.New(sas.RegistrationResource(d.scope, d.id), d.w.now().Add(time.Hour), "registration", d.key.Sign)
	if err != nil {
		d.w.t.Fatal(err)
	}
	return token
}

func (d *device) path(tail string) string {
	return "/" + d.scope + "/registrations/" + url.PathEscape(d.id) + tail + "?api-version=2021-06-01"
}

// put sends the registration and returns its answer.
func (d *device) put() (*http.Response, string) {
	d.w.t.Helper()
	body := d.body
	if body == "" {
		body = `{"registrationId":"` + d.id + `"}`
	}
	return d.w.call(http.MethodPut, d.path("/register"), d.token(), body, d.certificates...)
}

// refusal is the code of the error that a registration gets; 0 if it gets none.
func (d *device) refusal() int {
	d.w.t.Helper()
	resp, body := d.put()
	if resp.StatusCode == http.StatusAccepted {
		return 0
	}
	var e rest.ProvisioningError
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.ErrorCode/1000 != resp.StatusCode || e.TrackingID == "" || e.Message == "" {
		d.w.t.Fatalf("%d %s", resp.StatusCode, body)
	}
	return e.ErrorCode
}

// register registers as a device does: send, wait, ask.
func (d *device) register() rest.RegistrationState {
	d.w.t.Helper()
	resp, body := d.put()
	var op rest.RegistrationOperation
	if err := json.Unmarshal([]byte(body), &op); err != nil || resp.StatusCode != http.StatusAccepted || op.OperationID == "" ||
		op.Status != rest.RegistrationAssigning || resp.Header.Get("Retry-After") != "3" {
		d.w.t.Fatalf("%d %s", resp.StatusCode, body)
	}
	poll := d.path("/operations/" + op.OperationID)
	resp, body = d.w.call(http.MethodGet, poll, d.token(), "", d.certificates...)
	var early rest.RegistrationOperation
	if err := json.Unmarshal([]byte(body), &early); err != nil || resp.StatusCode != http.StatusAccepted || early.Status != rest.RegistrationAssigning ||
		early.RegistrationState == nil || early.RegistrationState.RegistrationID == "" || early.RegistrationState.AssignedHub != "" {
		d.w.t.Fatalf("%d %s", resp.StatusCode, body)
	}
	d.w.move(2 * time.Second)
	resp, body = d.w.call(http.MethodGet, poll, d.token(), "", d.certificates...)
	if err := json.Unmarshal([]byte(body), &op); err != nil || resp.StatusCode != http.StatusOK || op.RegistrationState == nil ||
		op.Status != op.RegistrationState.Status || op.RegistrationState.LastUpdatedUTC.IsZero() {
		d.w.t.Fatalf("%d %s", resp.StatusCode, body)
	}
	return *op.RegistrationState
}

func (w *world) enroll(e rest.Enrollment) rest.Enrollment {
	w.t.Helper()
	out, err := w.owner().PutEnrollment(w.t.Context(), e, rest.MustNotExist)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) enrollGroup(g rest.EnrollmentGroup) rest.EnrollmentGroup {
	w.t.Helper()
	out, err := w.owner().PutEnrollmentGroup(w.t.Context(), g, rest.MustNotExist)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) device(id string) rest.Device {
	w.t.Helper()
	d, err := w.owner().GetDevice(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func primary(a rest.Attestation) string { return a.SymmetricKey.PrimaryKey.Reveal() }

func TestIndividualKey(t *testing.T) {
	w := start(t)
	e := w.enroll(rest.Enrollment{RegistrationID: "r1", DeviceID: "dev-1", EnrollmentTerms: rest.EnrollmentTerms{
		Capabilities: &rest.Capabilities{IoTEdge: true},
		InitialTwin:  json.RawMessage(`{"tags":{"site":"x"},"properties":{"desired":{"a":1}}}`)}})
	for name, key := range map[string]rest.Secret{"primary": e.Attestation.SymmetricKey.PrimaryKey, "secondary": e.Attestation.SymmetricKey.SecondaryKey} {
		t.Run(name, func(t *testing.T) {
			s := w.keyed("r1", key.Reveal()).register()
			if s.Status != rest.RegistrationAssigned || s.AssignedHub != host || s.DeviceID != "dev-1" || s.RegistrationID != "r1" {
				t.Errorf("%+v", s)
			}
		})
	}
	d := w.device("dev-1")
	if !d.IsEdge() || d.Authentication.Type != rest.AuthSAS || d.Authentication.SymmetricKey != *e.Attestation.SymmetricKey {
		t.Errorf("%+v", d)
	}
	tw, err := w.owner().GetTwin(t.Context(), iothub.DeviceIdentity("dev-1"))
	if err != nil || string(tw.Tags) != `{"site":"x"}` || !strings.Contains(string(tw.Properties.Desired), `"a":1`) {
		t.Errorf("%s %s %v", tw.Tags, tw.Properties.Desired, err)
	}
	// What the device does next: its key opens the hub.
	token, err := sas.New(sas.DeviceResource(host, iothub.DeviceIdentity("dev-1")), w.now().Add(time.Hour), "", w.keyed("r1", primary(e.Attestation)).key.Sign)
	if err != nil {
		t.Fatal(err)
	}
	if resp, body := w.call(http.MethodGet, "/devices/dev-1/modules?api-version=2021-04-12", token, ""); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestGroupKey(t *testing.T) {
	w := start(t)
	other := w.enrollGroup(rest.EnrollmentGroup{EnrollmentGroupID: "a-other"})
	g := w.enrollGroup(rest.EnrollmentGroup{EnrollmentGroupID: "g"})
	master, err := sas.ParseKey(primary(g.Attestation))
	if err != nil {
		t.Fatal(err)
	}
	s := w.keyed("Dev-7", master.Derive("Dev-7").Base64()).register()
	if s.Status != rest.RegistrationAssigned || s.DeviceID != "Dev-7" || s.SymmetricKey == nil || s.SymmetricKey.EnrollmentGroupID != "g" {
		t.Errorf("%+v", s)
	}
	if d := w.device("Dev-7"); d.Authentication.SymmetricKey.PrimaryKey.Reveal() != master.Derive("Dev-7").Base64() || d.IsEdge() {
		t.Errorf("%+v", d)
	}
	if s := w.keyed("dev-8", master.Derive("dev-8").Base64()).register(); s.DeviceID != "dev-8" {
		t.Errorf("%+v", s)
	}
	if code := w.keyed("dev-7", primary(g.Attestation)).refusal(); code != 401002 {
		t.Errorf("with the key of the group itself: %d", code)
	}
	if code := w.keyed("dev-9", master.Derive("dev-8").Base64()).refusal(); code != 401002 {
		t.Errorf("with the key of another registration: %d", code)
	}
	// An individual enrollment of the id goes before the group.
	w.enroll(rest.Enrollment{RegistrationID: "dev-8", EnrollmentTerms: rest.EnrollmentTerms{ProvisioningStatus: "disabled"}})
	if code := w.keyed("dev-8", master.Derive("dev-8").Base64()).refusal(); code != 401002 {
		t.Errorf("shut out by an individual enrollment: %d", code)
	}
	list, err := w.owner().ListRegistrations(t.Context(), "g")
	if err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	g.ProvisioningStatus = rest.Disabled
	if g, err = w.owner().PutEnrollmentGroup(t.Context(), g, g.Etag); err != nil || primary(g.Attestation) != master.Base64() {
		t.Fatal(err)
	}
	if code := w.keyed("dev-7", master.Derive("dev-7").Base64()).refusal(); code != 403201 {
		t.Errorf("disabled group: %d", code)
	}
	_ = other
}

func TestRefusals(t *testing.T) {
	w := start(t)
	e := w.enroll(rest.Enrollment{RegistrationID: "r"})
	off := w.enroll(rest.Enrollment{RegistrationID: "off", EnrollmentTerms: rest.EnrollmentTerms{ProvisioningStatus: "Disabled"}})
	good := w.keyed("r", primary(e.Attestation))
	signed := func(resource, name string, expiry time.Duration) string {
		token, err := sas.New(resource, w.now().Add(expiry), name, good.key.Sign)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	resource := sas.RegistrationResource(scope, "r")
	version := "?api-version=2019-03-31"
	register := "/" + scope + "/registrations/r/register"
	tests := map[string]struct {
		method, path, token, body string
		code                      int
	}{
		"no credentials":          {http.MethodPut, register + version, "", `{}`, 401002},
		"garbage":                 {http.MethodPut, register + version, "x", `{}`, 401002},
		"expired":                 {http.MethodPut, register + version, signed(resource, "registration", -6*time.Minute), `{}`, 401002},
		"another key name":        {http.MethodPut, register + version, signed(resource, "iothubowner", time.Hour), `{}`, 401002},
		"no key name":             {http.MethodPut, register + version, signed(resource, "", time.Hour), `{}`, 401002},
		"another id":              {http.MethodPut, register + version, signed(sas.RegistrationResource(scope, "q"), "registration", time.Hour), `{}`, 401002},
		"another scope":           {http.MethodPut, register + version, signed(sas.RegistrationResource("0neX", "r"), "registration", time.Hour), `{}`, 401002},
		"another scope, in path":  {http.MethodPut, "/0neX/registrations/r/register" + version, signed(sas.RegistrationResource("0neX", "r"), "registration", time.Hour), `{}`, 401002},
		"unknown enrollment":      {http.MethodPut, "/" + scope + "/registrations/q/register" + version, signed(sas.RegistrationResource(scope, "q"), "registration", time.Hour), `{}`, 401002},
		"no version":              {http.MethodPut, register, good.token(), `{}`, 400004},
		"body is not JSON":        {http.MethodPut, register + version, good.token(), `{`, 400004},
		"body of another":         {http.MethodPut, register + version, good.token(), `{"registrationId":"q"}`, 400004},
		"odd id":                  {http.MethodPut, "/" + scope + "/registrations/a%20b/register" + version, good.token(), `{}`, 400004},
		"wrong verb":              {http.MethodPost, register + version, good.token(), `{}`, 405000},
		"unknown path":            {http.MethodPut, register + "/x" + version, good.token(), `{}`, 404000},
		"unknown operation":       {http.MethodGet, "/" + scope + "/registrations/r/operations/5.x" + version, good.token(), ``, 404204},
		"look-up before anything": {http.MethodPost, "/" + scope + "/registrations/r" + version, good.token(), `{}`, 404204},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp, body := w.call(tt.method, tt.path, tt.token, tt.body)
			var got rest.ProvisioningError
			if err := json.Unmarshal([]byte(body), &got); err != nil || got.ErrorCode != tt.code || resp.StatusCode != tt.code/1000 {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
			if strings.Contains(body+w.log.String(), "sig=") {
				t.Error("a signature is shown")
			}
		})
	}
	if code := w.keyed("off", primary(off.Attestation)).refusal(); code != 403201 {
		t.Errorf("disabled: %d", code)
	}
	if code := w.keyed("off", primary(e.Attestation)).refusal(); code != 401002 {
		t.Errorf("disabled, with a wrong key: %d", code)
	}
}

// Not only who registers must prove it, but also who asks for the result.
func TestOnlyTheDeviceLearnsOfItsRegistration(t *testing.T) {
	w := start(t)
	d := w.keyed("r", primary(w.enroll(rest.Enrollment{RegistrationID: "r"}).Attestation))
	_, body := d.put()
	var op rest.RegistrationOperation
	if err := json.Unmarshal([]byte(body), &op); err != nil {
		t.Fatal(err)
	}
	other := w.keyed("q", primary(w.enroll(rest.Enrollment{RegistrationID: "q"}).Attestation))
	guessed := w.keyed("r", primary(w.enroll(rest.Enrollment{RegistrationID: "x"}).Attestation))
	for name, token := range map[string]string{"nobody": "", "another device": other.token(), "another key": guessed.token(), "an operator": w.policyToken(access.Owner)} {
		for method, path := range map[string]string{http.MethodGet: d.path("/operations/" + op.OperationID), http.MethodPost: d.path("")} {
			if resp, body := w.call(method, path, token, ""); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "401002") {
				t.Errorf("%s, %s: %d %s", name, method, resp.StatusCode, body)
			}
		}
	}
	// Another device does not see it by the name of the operation either.
	if resp, body := w.call(http.MethodGet, other.path("/operations/"+op.OperationID), other.token(), ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestReprovisioning(t *testing.T) {
	desired := func(w *world) string {
		tw, err := w.owner().GetTwin(w.t.Context(), iothub.DeviceIdentity("d"))
		if err != nil {
			w.t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(tw.Properties.Desired, &doc); err != nil {
			w.t.Fatal(err)
		}
		s, _ := doc["a"].(string)
		return s
	}
	tests := map[string]struct {
		policy    *rest.ReprovisionPolicy
		substatus string
		desired   string
		keys      bool // whether the device gets the enrollment's new keys
		kept      bool // whether it is the same device
	}{
		"default":      {nil, rest.AssignedMigrated, "changed", true, true},
		"migrate data": {&rest.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}, rest.AssignedMigrated, "changed", true, true},
		"reset":        {&rest.ReprovisionPolicy{UpdateHubAssignment: true}, rest.AssignedReset, "initial", true, false},
		"never":        {&rest.ReprovisionPolicy{}, rest.AssignedInitially, "changed", false, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			e := w.enroll(rest.Enrollment{RegistrationID: "d", EnrollmentTerms: rest.EnrollmentTerms{ReprovisionPolicy: tt.policy,
				InitialTwin: json.RawMessage(`{"properties":{"desired":{"a":"initial"}}}`)}})
			w.keyed("d", primary(e.Attestation)).register()
			first := w.device("d")
			if desired(w) != "initial" {
				t.Error("no initial twin")
			}
			if _, err := w.owner().PatchTwin(t.Context(), iothub.DeviceIdentity("d"), rest.DesiredPatch([]byte(`{"a":"changed"}`)), ""); err != nil {
				t.Fatal(err)
			}
			e.Attestation = rest.Attestation{SymmetricKey: &rest.SymmetricKey{PrimaryKey: "bmV3a2V5bmV3a2V5bmV3a2V5"}}
			e, err := w.owner().PutEnrollment(t.Context(), e, e.Etag)
			if err != nil {
				t.Fatal(err)
			}
			w.reopen()
			s := w.keyed("d", primary(e.Attestation)).register()
			second := w.device("d")
			newKey := second.Authentication.SymmetricKey.PrimaryKey.Reveal() == "bmV3a2V5bmV3a2V5bmV3a2V5"
			if s.Substatus != tt.substatus || desired(w) != tt.desired || newKey != tt.keys || (first.GenerationID == second.GenerationID) != tt.kept {
				t.Errorf("%+v, desired %s, new key %v, same device %v", s, desired(w), newKey, first.GenerationID == second.GenerationID)
			}
		})
	}
}

func TestDeviceThatWasDeletedComesBack(t *testing.T) {
	w := start(t)
	e := w.enroll(rest.Enrollment{RegistrationID: "d"})
	d := w.keyed("d", primary(e.Attestation))
	d.register()
	if err := w.owner().DeleteDevice(t.Context(), "d", ""); err != nil {
		t.Fatal(err)
	}
	if s := d.register(); s.Substatus != rest.AssignedInitially {
		t.Errorf("%+v", s)
	}
	w.device("d")
}

func TestEnrollmentNamesAnotherDevice(t *testing.T) {
	w := start(t)
	e := w.enroll(rest.Enrollment{RegistrationID: "r", DeviceID: "one", EnrollmentTerms: rest.EnrollmentTerms{
		InitialTwin: json.RawMessage(`{"tags":{"a":1}}`)}})
	d := w.keyed("r", primary(e.Attestation))
	d.register()
	e.DeviceID = "two"
	if _, err := w.owner().PutEnrollment(t.Context(), e, rest.MustExist); err != nil {
		t.Fatal(err)
	}
	s := d.register()
	tw, err := w.owner().GetTwin(t.Context(), iothub.DeviceIdentity("two"))
	if err != nil || s.DeviceID != "two" || s.Substatus != rest.AssignedInitially || string(tw.Tags) != `{"a":1}` {
		t.Errorf("%+v, %s, %v", s, tw.Tags, err)
	}
	w.device("one") // is the operator's to delete
}

func TestDeviceUnderAParent(t *testing.T) {
	w := start(t)
	parent, err := w.owner().PutDevice(t.Context(), rest.Device{DeviceID: "edge", Capabilities: &rest.Capabilities{IoTEdge: true}}, rest.MustNotExist)
	if err != nil {
		t.Fatal(err)
	}
	e := w.enroll(rest.Enrollment{RegistrationID: "leaf", EnrollmentTerms: rest.EnrollmentTerms{ParentScopes: []string{parent.DeviceScope}}})
	w.keyed("leaf", primary(e.Attestation)).register()
	if d := w.device("leaf"); d.DeviceScope != parent.DeviceScope {
		t.Errorf("%+v", d)
	}
	e = w.enroll(rest.Enrollment{RegistrationID: "lost", EnrollmentTerms: rest.EnrollmentTerms{ParentScopes: []string{"ms-azure-iot-edge://gone-1"}}})
	s := w.keyed("lost", primary(e.Attestation)).register()
	if s.Status != rest.RegistrationFailed || s.ErrorCode != 400207 || !strings.Contains(s.ErrorMessage, "InvalidDeviceScope") || s.AssignedHub != "" {
		t.Errorf("%+v", s)
	}
}

func TestEverythingIsThereAfterARestart(t *testing.T) {
	w := start(t)
	e := w.enroll(rest.Enrollment{RegistrationID: "R"})
	w.enrollGroup(rest.EnrollmentGroup{EnrollmentGroupID: "g"})
	d := w.keyed("R", primary(e.Attestation))
	_, body := d.put()
	var op rest.RegistrationOperation
	if err := json.Unmarshal([]byte(body), &op); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	w.move(2 * time.Second)
	if resp, body := w.call(http.MethodGet, d.path("/operations/"+op.OperationID), d.token(), ""); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	got, err := w.owner().GetEnrollment(t.Context(), "r")
	if err != nil || got.RegistrationID != "R" || primary(got.Attestation) != primary(e.Attestation) || got.Etag != e.Etag ||
		got.RegistrationState == nil || got.RegistrationState.Status != rest.RegistrationAssigned {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := w.owner().GetEnrollmentGroup(t.Context(), "g"); err != nil {
		t.Error(err)
	}
	// The device may also ask without a registration.
	resp, body := w.call(http.MethodPost, d.path(""), d.token(), `{"registrationId":"R"}`)
	var s rest.RegistrationState
	if err := json.Unmarshal([]byte(body), &s); err != nil || resp.StatusCode != http.StatusOK || s.DeviceID != "R" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestOtherPathsAreTheHubs(t *testing.T) {
	w := start(t)
	for _, path := range []string{"/devices/registrations/modules", "/twins/registrations/modules/m", "/certificates/registrations/verify", "/devices/x/modules"} {
		resp, body := w.call(http.MethodGet, path, "", "")
		if resp.Header.Get("Iothub-Errorcode") != "InvalidProtocolVersion" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

func TestGroupsAreBounded(t *testing.T) {
	w := start(t)
	var err error
	for i := 0; err == nil && i < 200; i++ {
		_, err = w.owner().PutEnrollmentGroup(t.Context(), rest.EnrollmentGroup{EnrollmentGroupID: strings.Repeat("g", i+1)}, rest.MustNotExist)
		if i < 100 && err != nil {
			t.Fatal(i, err)
		}
	}
	var refused *rest.Error
	if !errors.As(err, &refused) || refused.Status != http.StatusConflict {
		t.Error(err)
	}
}

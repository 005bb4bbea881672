package dps_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func TestCustomAllocation(t *testing.T) {
	tests := map[string]struct {
		status int
		answer string
		fails  string // part of the error
	}{
		"as it likes":       {200, `{"iotHubHostName":"hub.test","initialTwin":{"tags":{"by":"hook"}},"payload":{"welcome":true}}`, ""},
		"no twin":           {200, `{"iotHubHostName":"HUB.test","initialTwin":null,"payload":null}`, ""},
		"another hub":       {200, `{"iotHubHostName":"other.test"}`, "not linked"},
		"no hub":            {200, `{}`, "not linked"},
		"not JSON":          {200, `welcome`, "not understood"},
		"twin of no sense":  {200, `{"iotHubHostName":"hub.test","initialTwin":[]}`, "initialTwin"},
		"refuses":           {403, `{}`, "failed"},
		"sends elsewhere":   {302, ``, "failed"},
		"talks without end": {200, strings.Repeat(" ", 70<<10), "failed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			var asked string
			hook := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				raw, _ := io.ReadAll(r.Body)
				asked = string(raw)
				rw.WriteHeader(tt.status)
				_, _ = io.WriteString(rw, tt.answer)
			}))
			defer hook.Close()
			e := w.enroll(rest.Enrollment{RegistrationID: "r", EnrollmentTerms: rest.EnrollmentTerms{AllocationPolicy: "Custom",
				InitialTwin: json.RawMessage(`{"tags":{"by":"enrollment"}}`),
				Custom:      &rest.CustomAllocation{WebhookURL: hook.URL + "/?code=hush", APIVersion: "2021-06-01"}}})
			d := w.keyed("r", primary(e.Attestation))
			d.body = `{"registrationId":"r","payload":{"model":"x"}}`
			s := d.register()
			var request struct {
				IndividualEnrollment rest.Enrollment
				DeviceRuntimeContext struct {
					RegistrationID string
					SymmetricKey   *struct{}
					Payload        json.RawMessage
				}
				LinkedHubs []string
			}
			if err := json.Unmarshal([]byte(asked), &request); err != nil || request.IndividualEnrollment.RegistrationID != "r" ||
				string(request.DeviceRuntimeContext.Payload) != `{"model":"x"}` || request.DeviceRuntimeContext.SymmetricKey == nil ||
				len(request.LinkedHubs) != 1 || strings.Contains(asked, primary(e.Attestation)) {
				t.Errorf("asked %s", asked)
			}
			if strings.Contains(w.log.String(), "hush") {
				t.Error("the address is in the log")
			}
			if tt.fails != "" {
				if s.Status != rest.RegistrationFailed || s.ErrorCode != 400207 || !strings.Contains(s.ErrorMessage, tt.fails) {
					t.Errorf("%+v", s)
				}
				if _, err := w.owner().GetDevice(t.Context(), "r"); rest.StatusOf(err) != http.StatusNotFound {
					t.Errorf("device: %v", err)
				}
				return
			}
			tw, err := w.owner().GetTwin(t.Context(), iothub.DeviceIdentity("r"))
			want, payload := `{"by":"hook"}`, `{"welcome":true}`
			if name == "no twin" {
				want, payload = `{"by":"enrollment"}`, ""
			}
			if err != nil || string(tw.Tags) != want || string(s.Payload) != payload || s.Status != rest.RegistrationAssigned {
				t.Errorf("%s, %+v, %v", tw.Tags, s, err)
			}
		})
	}
}

// A failure between two registrations does not make a new device of an old one.
func TestFailureBetweenRegistrations(t *testing.T) {
	for name, policy := range map[string]*rest.ReprovisionPolicy{"migrate": nil, "never": {}} {
		t.Run(name, func(t *testing.T) {
			w, hub := start(t), host
			hook := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(rw, `{"iotHubHostName":"`+hub+`"}`)
			}))
			defer hook.Close()
			terms := rest.EnrollmentTerms{AllocationPolicy: "custom", Custom: &rest.CustomAllocation{WebhookURL: hook.URL},
				InitialTwin: json.RawMessage(`{"tags":{"a":"initial"}}`)}
			e := w.enroll(rest.Enrollment{RegistrationID: "r", EnrollmentTerms: terms})
			d := w.keyed("r", primary(e.Attestation))
			d.register()
			if _, err := w.owner().PatchTwin(t.Context(), iothub.DeviceIdentity("r"), rest.TwinPatch{Tags: []byte(`{"a":"changed"}`)}, ""); err != nil {
				t.Fatal(err)
			}
			hub = "other.test"
			if s := d.register(); s.Status != rest.RegistrationFailed {
				t.Errorf("%+v", s)
			}
			hub, e.ReprovisionPolicy = host, policy
			if _, err := w.owner().PutEnrollment(t.Context(), e, rest.MustExist); err != nil {
				t.Fatal(err)
			}
			s := d.register()
			tw, err := w.owner().GetTwin(t.Context(), iothub.DeviceIdentity("r"))
			if err != nil || s.Substatus != rest.AssignedMigrated || string(tw.Tags) != `{"a":"changed"}` {
				t.Errorf("%+v, %s, %v", s, tw.Tags, err)
			}
		})
	}
}

func TestCustomAllocationNeedsAnAddress(t *testing.T) {
	w := start(t)
	for _, address := range []string{"", "hook", "ftp://x/", "file:///etc/passwd"} {
		terms := rest.EnrollmentTerms{AllocationPolicy: "custom", Custom: &rest.CustomAllocation{WebhookURL: address}}
		if _, err := w.owner().PutEnrollment(t.Context(), rest.Enrollment{RegistrationID: "r", EnrollmentTerms: terms}, ""); rest.StatusOf(err) != 400 {
			t.Errorf("%q: %v", address, err)
		}
	}
}

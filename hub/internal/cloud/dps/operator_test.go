package dps_test

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

func TestOperators(t *testing.T) {
	w := start(t)
	ctx, owner := t.Context(), w.owner()
	e := w.enroll(rest.Enrollment{RegistrationID: "r"})
	status := func(err error) int { return rest.StatusOf(err) }
	if _, err := owner.PutEnrollment(ctx, rest.Enrollment{RegistrationID: "R"}, rest.MustNotExist); status(err) != 409 {
		t.Errorf("twice: %v", err)
	}
	if _, err := owner.PutEnrollment(ctx, rest.Enrollment{RegistrationID: "new"}, rest.MustExist); status(err) != 404 {
		t.Errorf("update of nothing: %v", err)
	}
	changed, err := owner.PutEnrollment(ctx, rest.Enrollment{RegistrationID: "r", DeviceID: "d"}, e.Etag)
	if err != nil || changed.Etag == e.Etag || changed.CreatedDateTimeUTC != e.CreatedDateTimeUTC || primary(changed.Attestation) != primary(e.Attestation) {
		t.Errorf("%+v, %v", changed, err)
	}
	if _, err := owner.PutEnrollment(ctx, changed, e.Etag); status(err) != 412 {
		t.Errorf("stale etag: %v", err)
	}
	if err := owner.DeleteEnrollment(ctx, "r", e.Etag); status(err) != 412 {
		t.Errorf("stale etag: %v", err)
	}
	w.keyed("r", primary(e.Attestation)).register()
	if s, err := owner.GetRegistration(ctx, "r"); err != nil || s.DeviceID != "d" {
		t.Errorf("%+v, %v", s, err)
	}
	if err := owner.DeleteRegistration(ctx, "r"); err != nil {
		t.Error(err)
	}
	if _, err := owner.GetRegistration(ctx, "r"); status(err) != 404 {
		t.Errorf("%v", err)
	}
	w.keyed("r", primary(e.Attestation)).register()
	if err := owner.DeleteEnrollment(ctx, "r", ""); err != nil {
		t.Error(err)
	}
	for _, err := range []error{owner.DeleteEnrollment(ctx, "r", ""), second(owner.GetEnrollment(ctx, "r")), second(owner.GetRegistration(ctx, "r"))} {
		if status(err) != 404 {
			t.Errorf("%v", err)
		}
	}
	w.device("d") // stays
	if code := w.keyed("r", primary(e.Attestation)).refusal(); code != 401002 {
		t.Errorf("deleted enrollment: %d", code)
	}
}

func second[T any](_ T, err error) error { return err }

func TestRightsOfOperators(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	w.enroll(rest.Enrollment{RegistrationID: "r"})
	if _, err := w.policy("registryRead").GetEnrollment(ctx, "r"); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"reader writes":   second(w.policy("registryRead").PutEnrollment(ctx, rest.Enrollment{RegistrationID: "q"}, "")),
		"reader deletes":  w.policy("registryRead").DeleteEnrollment(ctx, "r", ""),
		"service reads":   second(w.policy("service").GetEnrollment(ctx, "r")),
		"device lists":    second(w.policy("device").ListEnrollments(ctx)),
		"service removes": w.policy("service").DeleteEnrollment(ctx, "r", ""),
	} {
		if rest.StatusOf(err) != http.StatusUnauthorized {
			t.Errorf("%s: %v", name, err)
		}
	}
	if resp, body := w.call(http.MethodGet, "/enrollments/r?api-version=2021-10-01", "", ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("anyone: %d %s", resp.StatusCode, body)
	}
}

func TestLists(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	bulk := `{"mode":"create","enrollments":[{"registrationId":"a"},{"registrationId":"b"},{"registrationId":"c"},{"registrationId":"a"},{"registrationId":"?"}]}`
	resp, body := w.call(http.MethodPost, "/enrollments?api-version=2021-10-01", w.policyToken(access.Owner), bulk)
	var result struct {
		IsSuccessful bool
		Errors       []struct {
			RegistrationID string
			ErrorCode      int
		}
	}
	if err := json.Unmarshal([]byte(body), &result); err != nil || resp.StatusCode != http.StatusOK || result.IsSuccessful || len(result.Errors) != 2 ||
		result.Errors[0].ErrorCode != 409201 || result.Errors[1].RegistrationID != "?" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if list, err := w.owner().ListEnrollments(ctx); err != nil || len(list) != 3 || list[0].RegistrationID != "a" {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := w.owner().ListEnrollmentGroups(ctx); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	var seen []string
	for next := ""; ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.https.URL+"/enrollments/query?api-version=2021-10-01", strings.NewReader(`{"query":"select * from enrollments"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {w.policyToken(access.Owner)}, "X-Ms-Max-Item-Count": {"2"}, "X-Ms-Continuation": {next}}
		c := w.https.Client()
		c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: w.roots, ServerName: host}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var page []rest.Enrollment
		err = json.NewDecoder(resp.Body).Decode(&page)
		resp.Body.Close()
		if err != nil || resp.Header.Get("X-Ms-Item-Type") != "Enrollment" {
			t.Fatal(err)
		}
		for _, e := range page {
			seen = append(seen, e.RegistrationID)
		}
		if next = resp.Header.Get("X-Ms-Continuation"); next == "" {
			break
		}
	}
	if strings.Join(seen, "") != "abc" {
		t.Error(seen)
	}
	bulk = `{"mode":"delete","enrollments":[{"registrationId":"a"},{"registrationId":"b"}]}`
	if resp, body := w.call(http.MethodPost, "/enrollments?api-version=2021-10-01", w.policyToken(access.Owner), bulk); !strings.Contains(body, "true") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	resp, body = w.call(http.MethodPost, "/enrollments/c/attestationmechanism?api-version=2021-10-01", w.policyToken(access.Owner), "")
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, `"primaryKey":"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestInvalidEnrollments(t *testing.T) {
	w := start(t)
	for name, body := range map[string]string{
		"not JSON":           `{`,
		"another id":         `{"registrationId":"q"}`,
		"device id":          `{"deviceId":"a b"}`,
		"short key":          `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"YQ=="}}}`,
		"key is no base64":   `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"?????????????????????"}}}`,
		"unknown kind":       `{"attestation":{"type":"smell"}}`,
		"unknown status":     `{"provisioningStatus":"maybe"}`,
		"unknown policy":     `{"allocationPolicy":"dice"}`,
		"two parents":        `{"parentScopes":["a","b"]}`,
		"twin is no object":  `{"initialTwin":[]}`,
		"twin without sense": `{"initialTwin":{"tags":1}}`,
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := w.call(http.MethodPut, "/enrollments/r?api-version=2021-10-01", w.policyToken(access.Owner), body)
			if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "400004") {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
}

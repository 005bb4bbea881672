package rest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// deviceJSON is the example of spec iothub-service 3.1.
const deviceJSON = `{"deviceId":"edge1","generationId":"637995132110000000","etag":"Nzk1MjE0NjM2",` +
	`"connectionState":"Disconnected","status":"enabled","statusReason":null,` +
	`"connectionStateUpdatedTime":"0001-01-01T00:00:00Z","statusUpdatedTime":"0001-01-01T00:00:00Z",` +
	`"lastActivityTime":"0001-01-01T00:00:00Z","cloudToDeviceMessageCount":0,` +
	`"authentication":{"symmetricKey":{"primaryKey":"b64","secondaryKey":"b64"},` +
	`"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"sas"},` +
	`"capabilities":{"iotEdge":true},` +
	`"deviceScope":"ms-azure-iot-edge://edge1-637995132110000000","parentScopes":[]}`

func TestDeviceDocumentKeepsEveryMember(t *testing.T) {
	var d rest.Device
	if err := json.Unmarshal([]byte(deviceJSON), &d); err != nil {
		t.Fatal(err)
	}
	if !d.IsEdge() || d.Authentication.SymmetricKey.PrimaryKey.Reveal() != "b64" || !d.LastActivityTime.IsZero() {
		t.Errorf("read as %+v", d)
	}
	got, err := json.Marshal(d)
	if err != nil || string(got) != deviceJSON {
		t.Errorf("written as\n%s\nwant\n%s\n%v", got, deviceJSON, err)
	}
}

func TestParentScopesAreLeftOutOnlyWhenNil(t *testing.T) {
	for want, d := range map[bool]rest.Device{true: {ParentScopes: []string{}}, false: {}} {
		raw, err := json.Marshal(d)
		if err != nil || strings.Contains(string(raw), "parentScopes") != want {
			t.Errorf("%s, %v", raw, err)
		}
	}
}

func TestTimeIsReadInAllForms(t *testing.T) {
	want := time.Date(2026, 11, 23, 4, 0, 0, 123456700, time.UTC)
	for in, wanted := range map[string]time.Time{
		`"2026-11-23T04:00:00.1234567Z"`:      want,
		`"2026-11-23T04:00:00.1234567"`:       want,
		`"2026-11-23T05:00:00.1234567+01:00"`: want,
		`"0001-01-01T00:00:00"`:               {},
		`null`:                                {},
	} {
		var v rest.Time
		if err := json.Unmarshal([]byte(in), &v); err != nil || !v.Equal(wanted) {
			t.Errorf("%s: %v, %v", in, v, err)
		}
	}
	for _, in := range []string{`"yesterday"`, `5`} {
		if err := json.Unmarshal([]byte(in), new(rest.Time)); err == nil {
			t.Errorf("%s accepted", in)
		}
	}
	if got := rest.Format(want); got != "2026-11-23T04:00:00.1234567Z" {
		t.Errorf("written as %s", got)
	}
}

func TestSecretsAreNeitherPrintedNorQuotedInErrors(t *testing.T) {
	d := rest.Device{Authentication: rest.SAS("hush", "hush")}
	for _, s := range []string{fmt.Sprint(d.Authentication), fmt.Sprintf("%+v", *d.Authentication), fmt.Sprintf("%#v", *d.Authentication)} {
		if strings.Contains(s, "hush") {
			t.Errorf("printed: %s", s)
		}
	}
	err := json.Unmarshal([]byte(`{"symmetricKey":{"primaryKey":["hush"]}}`), new(rest.Authentication))
	if err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("error: %v", err)
	}
}

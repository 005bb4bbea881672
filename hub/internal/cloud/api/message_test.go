package api_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// device registers a device and returns a token of its own.
func (s *server) device(id string) string {
	s.t.Helper()
	d := must[rest.Device](s.t)(s.owner().PutDevice(s.t.Context(), rest.Device{DeviceID: id}, rest.MustNotExist))
	return s.token(iothub.DeviceIdentity(id), d.Authentication)
}

// stored are the events so far: sender, properties and body.
func (s *server) stored() []string {
	s.t.Helper()
	events, _, err := s.hub.Events().Read(0, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	var list []string
	for _, e := range events {
		slices.SortFunc(e.Message.System, func(a, b iothub.Property) int { return strings.Compare(a.Name, b.Name) })
		slices.SortFunc(e.Message.Properties, func(a, b iothub.Property) int { return strings.Compare(a.Name, b.Name) })
		list = append(list, fmt.Sprint(e.Sender, " ", e.Message.System, " ", e.Message.Properties, " ", string(e.Message.Body)))
	}
	return list
}

func TestDeviceSendsTelemetryOverHTTP(t *testing.T) {
	s := start(t)
	token := s.device("d1")
	const path = "/devices/d1/messages/events" + version
	resp, body := s.call("POST", path, token, "\x00raw", "iothub-app-key", "v 1", "IoTHub-MessageId", "m1", "iothub-correlationid", "c",
		"iothub-contenttype", "text/plain", "iothub-ack", "full", "iothub-app-latin", "\xe9", "iothub-connection-device-id", "other", "X-Other", "1")
	if resp.StatusCode != http.StatusNoContent || body != "" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	batch := `[{"body":"` + base64.StdEncoding.EncodeToString([]byte("one")) + `","base64Encoded":true,"properties":{"iothub-app-Key":"1","plain":"2","iothub-connection-device-id":"x"}},
		{"body":"` + base64.StdEncoding.EncodeToString([]byte("two")) + `"},{"body":"three","base64Encoded":false,"properties":{"iothub-messageid":"m3"}}]`
	if resp, body := s.call("POST", path, token, batch, "Content-Type", "application/vnd.microsoft.iothub.json; charset=utf-8"); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("batch: %d %s", resp.StatusCode, body)
	}
	want := []string{
		"d1 [{cid c false} {contentType text/plain false} {messageId m1 false}] [{iothub-ack full false} {key v 1 false} {latin é false}] \x00raw",
		"d1 [] [{Key 1 false} {plain 2 false}] one", "d1 [] [] two", "d1 [{messageId m3 false}] [] three",
	}
	if got := s.stored(); !slices.Equal(got, want) {
		t.Errorf("stored %q", got)
	}
}

func TestTelemetryOverHTTPThatIsRefused(t *testing.T) {
	s := start(t)
	token, other := s.device("d1"), s.device("d2")
	const batch = "application/vnd.microsoft.iothub.json"
	large := `{"body":"` + strings.Repeat("AAAA", 44<<10) + `"}` // 132 KiB
	for _, tt := range []struct {
		name, path, token, body, kind string
		status                        int
	}{
		{"no credentials", "/devices/d1/messages/events", "", "x", "", 401},
		{"another device", "/devices/d1/messages/events", other, "x", "", 401},
		{"service policy", "/devices/d1/messages/events", s.policyToken("service"), "x", "", 401},
		{"device policy", "/devices/d1/messages/events", s.policyToken("device"), "x", "", 204},
		{"module that is none", "/devices/d1/modules/m/messages/events", token, "x", "", 401},
		{"too large", "/devices/d1/messages/events", token, strings.Repeat("x", iothub.MaxMessageSize+1), "", 413},
		{"no batch", "/devices/d1/messages/events", token, "x", batch, 400},
		{"empty batch", "/devices/d1/messages/events", token, "[]", batch, 400},
		{"no base64", "/devices/d1/messages/events", token, `[{"body":"!"}]`, batch, 400},
		{"one large message in a batch", "/devices/d1/messages/events", token, "[" + large + "]", batch, 204},
		{"batch that is too large", "/devices/d1/messages/events", token, "[" + large + "," + large + "]", batch, 413},
	} {
		if resp, body := s.call("POST", tt.path+version, tt.token, tt.body, "Content-Type", tt.kind); resp.StatusCode != tt.status {
			t.Errorf("%s: %d %s", tt.name, resp.StatusCode, body)
		}
	}
	if n := len(s.stored()); n != 2 {
		t.Errorf("%d stored", n)
	}
}

// receiveMessage polls as a device and returns the lock token and what it got.
func (s *server) receiveMessage(token, path string) (lock, got string) {
	s.t.Helper()
	resp, body := s.call("GET", path+version, token, "")
	if resp.StatusCode == http.StatusNoContent {
		return "", ""
	}
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("receive: %d %s", resp.StatusCode, body)
	}
	h := resp.Header
	return strings.Trim(h.Get("ETag"), `"`), fmt.Sprint(h.Get("Iothub-Messageid"), " ", h.Get("Iothub-Sequencenumber"), " ", h.Get("Iothub-Deliverycount"),
		" ", h.Get("Iothub-To"), " ", h.Get("Iothub-App-K"), " ", body)
}

func TestDeviceReceivesOverHTTPAndServiceHearsOfIt(t *testing.T) {
	s := start(t)
	token, owner := s.device("d1"), s.owner()
	path := "/devices/d1/messages/deviceBound"
	for _, id := range []string{"1", "2", "3"} {
		m := &iothub.Message{Body: []byte("body" + id)}
		m.System.Set(iothub.MessageID, id)
		m.System.Set(iothub.Ack, "full")
		m.Properties.Set("k", "v")
		if err := owner.SendMessage(t.Context(), iothub.DeviceIdentity("d1"), m); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ want, method, suffix string }{
		{"1 1 0 /devices/d1/messages/deviceBound v body1", "POST", "/abandon" + version},
		{"1 1 1 /devices/d1/messages/deviceBound v body1", "DELETE", version},
		{"2 2 0 /devices/d1/messages/deviceBound v body2", "DELETE", version + "&reject"},
	} {
		lock, got := s.receiveMessage(token, path)
		if got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
		if resp, body := s.call(tt.method, path+"/"+lock+tt.suffix, token, ""); resp.StatusCode != http.StatusNoContent {
			t.Errorf("settle: %d %s", resp.StatusCode, body)
		}
		resp, body := s.call(tt.method, path+"/"+lock+tt.suffix, token, "")
		if resp.StatusCode != http.StatusPreconditionFailed || resp.Header.Get("Iothub-Errorcode") != "DeviceMessageLockLost" {
			t.Errorf("settle again: %d %s", resp.StatusCode, body)
		}
	}
	lock, _ := s.receiveMessage(token, path)
	if other, _ := s.receiveMessage(token, path); lock == "" || other != "" {
		t.Errorf("locks %q and %q", lock, other)
	}
	if r := must[rest.PurgeResult](t)(owner.PurgeMessages(t.Context(), "d1")); r != (rest.PurgeResult{DeviceID: "d1", TotalMessagesPurged: 1}) {
		t.Errorf("purge: %+v", r)
	}
	// The last record may be on its way to the disk.
	var told []string
	for deadline := time.Now().Add(10 * time.Second); len(told) < 3 && time.Now().Before(deadline); {
		f := must[rest.Feedback](t)(owner.ReceiveFeedback(t.Context()))
		for _, r := range f.Records {
			told = append(told, r.OriginalMessageID+" "+r.StatusCode)
		}
		if f.LockToken == "" {
			continue
		}
		if err := owner.CompleteFeedback(t.Context(), f.LockToken); err != nil {
			t.Fatal(err)
		}
		if err := owner.CompleteFeedback(t.Context(), f.LockToken); rest.StatusOf(err) != http.StatusPreconditionFailed {
			t.Errorf("again: %v", err)
		}
	}
	if !slices.Equal(told, []string{"1 Success", "2 Rejected", "3 Purged"}) {
		t.Errorf("told %v", told)
	}
}

func TestAbandonedFeedbackComesAgain(t *testing.T) {
	s := start(t)
	s.device("d1")
	token := s.policyToken(access.Owner)
	s.call("POST", "/devices/d1/messages/deviceBound"+version, token, "x", "iothub-ack", "negative", "iothub-messageid", "m")
	s.call("DELETE", "/devices/d1/commands"+version, token, "")
	const path = "/messages/servicebound/FEEDBACK"
	for range 2 {
		resp, body := s.call("GET", path+version, token, "")
		var records []rest.FeedbackRecord
		if err := json.Unmarshal([]byte(body), &records); err != nil || len(records) != 1 || resp.Header.Get("Iothub-Enqueuedtime") == "" {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		if resp, _ := s.call("GET", path+version, token, ""); resp.StatusCode != http.StatusNoContent {
			t.Errorf("locked: %d", resp.StatusCode)
		}
		lock := strings.Trim(resp.Header.Get("ETag"), `"`)
		if resp, body := s.call("POST", path+"/"+lock+"/abandon"+version, token, ""); resp.StatusCode != http.StatusNoContent {
			t.Errorf("abandon: %d %s", resp.StatusCode, body)
		}
	}
}

func TestMessagesToDevicesThatAreRefused(t *testing.T) {
	s := start(t)
	device := s.device("d1")
	owner := s.policyToken(access.Owner)
	const path = "/devices/d1/messages/deviceBound"
	for _, tt := range []struct {
		name, method, path, token, body string
		header                          []string
		status                          int
		code                            string
	}{
		{"no such device", "POST", "/devices/none/messages/deviceBound", owner, "x", nil, 404, "DeviceNotFound"},
		{"no such module", "POST", "/devices/d1/modules/m/messages/deviceBound", owner, "x", nil, 404, "ModuleNotFound"},
		{"a device may not", "POST", path, device, "x", nil, 401, "IotHubUnauthorizedAccess"},
		{"registry policy may not", "POST", path, s.policyToken("registryReadWrite"), "x", nil, 401, "IotHubUnauthorizedAccess"},
		{"too large", "POST", path, owner, strings.Repeat("x", 64<<10+1), nil, 413, "MessageTooLarge"},
		{"bad ack", "POST", path, owner, "x", []string{"iothub-ack", "some"}, 400, "ArgumentInvalid"},
		{"bad expiry", "POST", path, owner, "x", []string{"iothub-expiry", "later"}, 400, "ArgumentInvalid"},
		{"a policy does not receive", "GET", path, s.policyToken("service"), "", nil, 401, "IotHubUnauthorized"},
		{"purge of nobody", "DELETE", "/devices/none/commands", owner, "", nil, 404, "DeviceNotFound"},
		{"a device reads no feedback", "GET", "/messages/servicebound/feedback", device, "", nil, 401, "IotHubUnauthorizedAccess"},
		{"no such lock", "DELETE", path + "/x", device, "", nil, 412, "DeviceMessageLockLost"},
		{"no such verb", "PUT", path, owner, "", nil, 405, "GenericMethodNotAllowed"},
	} {
		resp, body := s.call(tt.method, tt.path+version, tt.token, tt.body, tt.header...)
		if resp.StatusCode != tt.status || resp.Header.Get("Iothub-Errorcode") != tt.code {
			t.Errorf("%s: %d %s", tt.name, resp.StatusCode, body)
		}
	}
	for i := range 51 {
		resp, body := s.call("POST", path+version, owner, "x")
		if want := map[bool]int{false: 204, true: 403}[i == 50]; resp.StatusCode != want {
			t.Errorf("message %d: %d %s", i, resp.StatusCode, body)
		}
	}
}

func TestPropertiesThatHTTPCannotCarryAreLeftOut(t *testing.T) {
	s := start(t)
	token := s.device("d1")
	m := &iothub.Message{Body: []byte("x"), Properties: iothub.Properties{{Name: "a b", Value: "1"}, {Name: "line", Value: "1\r\nX-Evil: 2"}, {Name: "ok", Value: "ü"}}}
	if err := s.hub.SendToDevice(t.Context(), iothub.DeviceIdentity("d1"), m); err != nil {
		t.Fatal(err)
	}
	resp, body := s.call("GET", "/devices/d1/messages/devicebound"+version, token, "")
	if resp.StatusCode != 200 || body != "x" || resp.Header.Get("Iothub-App-Ok") != "ü" || resp.Header.Get("X-Evil") != "" {
		t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
	}
}

func TestModuleOfItsOwnSendsAndReceives(t *testing.T) {
	s := start(t)
	device := s.device("d1")
	id := iothub.ModuleIdentity("d1", "m#1")
	m := must[rest.Module](t)(s.owner().PutModule(t.Context(), rest.Module{DeviceID: "d1", ModuleID: id.Module}, rest.MustNotExist))
	token := s.token(id, m.Authentication)
	const path = "/devices/d1/modules/m%231/messages/"
	for _, token := range []string{token, device} { // the device's key speaks for its modules
		if resp, body := s.call("POST", path+"events"+version, token, "x"); resp.StatusCode != http.StatusNoContent {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
	if got := s.stored(); !slices.Equal(got, []string{"d1/m#1 [] [] x", "d1/m#1 [] [] x"}) {
		t.Errorf("stored %q", got)
	}
	if err := s.owner().SendMessage(t.Context(), id, &iothub.Message{Body: []byte("hello")}); err != nil {
		t.Fatal(err)
	}
	if lock, _ := s.receiveMessage(device, "/devices/d1/messages/devicebound"); lock != "" {
		t.Error("the device got what is for its module")
	}
	lock, got := s.receiveMessage(token, path+"devicebound")
	if got != " 1 0 /devices/d1/modules/m%231/messages/deviceBound  hello" {
		t.Errorf("got %q", got)
	}
	if resp, body := s.call("DELETE", path+"devicebound/"+lock+version, token, ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

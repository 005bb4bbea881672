package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Bounds of spec iothub-service 6, in seconds.
const (
	defaultResponse = 30
	minResponse     = 5
	maxTimeout      = 300
	maxMethodName   = 100
)

// answerEarlier lets the answer be there before a client that waits exactly as
// long as it asked us to gives up.
const answerEarlier = 500 * time.Millisecond

func parseMethod(body []byte) (cloud.MethodCall, error) {
	var in struct {
		MethodName string          `json:"methodName"`
		Payload    json.RawMessage `json:"payload"`
		Response   *int            `json:"responseTimeoutInSeconds"`
		Legacy     *int            `json:"timeoutInSeconds"`
		Connect    int             `json:"connectTimeoutInSeconds"`
	}
	bad := func(text string) (cloud.MethodCall, error) {
		return cloud.MethodCall{}, refuse(registry.ArgumentInvalid, "%s", text)
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return bad("the body is not a method call")
	}
	if in.MethodName == "" || len(in.MethodName) > maxMethodName || strings.ContainsAny(in.MethodName, " $()<>@,;:\\\"/[]?={}") {
		return bad("methodName is missing, too long, or holds a forbidden character")
	}
	if in.Response == nil {
		in.Response = in.Legacy
	}
	response := defaultResponse
	if in.Response != nil {
		response = *in.Response
	}
	if response < minResponse || response > maxTimeout || in.Connect < 0 || in.Connect > maxTimeout {
		return bad("a timeout is out of range")
	}
	return cloud.MethodCall{
		Name: in.MethodName, Payload: in.Payload,
		ConnectTimeout:  time.Duration(in.Connect) * time.Second,
		ResponseTimeout: time.Duration(response) * time.Second,
	}, nil
}

func (a *API) invokeMethod(r *request) (answer, error) {
	call, err := parseMethod(r.body)
	if err != nil {
		return answer{}, err
	}
	if _, err := a.hub.Registry().Chain(r.id); err != nil {
		var e *registry.Error
		if errors.As(err, &e) {
			code := 404001
			if e.Code == registry.ModuleNotFound {
				code = 404010
			}
			return answer{}, &methodError{status: http.StatusNotFound, code: code, message: e.Text}
		}
		return answer{}, err
	}
	connect := call.ConnectTimeout
	call.ResponseTimeout -= answerEarlier
	result, err := a.hub.Invoke(r.Context(), r.id, call)
	if err != nil {
		return answer{}, methodFailure(err, connect)
	}
	return answer{doc: rest.MethodResult{Status: result.Status, Payload: payloadJSON(result.Payload)}}, nil
}

func methodFailure(err error, connect time.Duration) error {
	switch {
	case errors.Is(err, cloud.ErrNotOnline):
		return &methodError{status: http.StatusNotFound, code: 404103, message: "Timed out waiting for device to connect.",
			info: map[string]string{"timeout": timeSpan(connect)}}
	case errors.Is(err, cloud.ErrConnectionLost):
		return &methodError{status: http.StatusNotFound, code: 404104, message: "Device connection was closed remotely."}
	case errors.Is(err, cloud.ErrNoAnswer):
		return &methodError{status: http.StatusGatewayTimeout, code: 504101, message: "Timed out waiting for the response from device."}
	case errors.Is(err, cloud.ErrPayloadTooLarge):
		return &methodError{status: http.StatusRequestEntityTooLarge, code: 413001, message: "Payload of the method is too large."}
	}
	return err
}

// payloadJSON makes JSON of whatever the device answered.
func payloadJSON(p []byte) json.RawMessage {
	switch {
	case len(p) == 0:
		return json.RawMessage("null")
	case json.Valid(p):
		return p
	}
	text := string(p)
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	raw, err := json.Marshal(text)
	if err != nil { // a string always encodes
		return json.RawMessage("null")
	}
	return raw
}

package api

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/access"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/authority"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/c2d"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/deployment"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/httpjson"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Codes that are not of the registry.
const (
	invalidVersion     registry.Code = "InvalidProtocolVersion"
	unauthorized       registry.Code = "IotHubUnauthorized"
	unauthorizedAccess registry.Code = "IotHubUnauthorizedAccess"
	notFound           registry.Code = "GenericNotFound"
	methodNotAllowed   registry.Code = "GenericMethodNotAllowed"
	tooLarge           registry.Code = "MessageTooLarge"
	notImplemented     registry.Code = "NotImplemented"
	serverError        registry.Code = "ServerError"
	unavailable        registry.Code = "ServiceUnavailable"
	queueFull          registry.Code = "DeviceMaximumQueueDepthExceeded"
	lockLost           registry.Code = "DeviceMessageLockLost"
)

// statuses are the HTTP statuses of codes (spec iothub-service 2.2).
var statuses = map[registry.Code]int{
	invalidVersion:                http.StatusBadRequest,
	registry.ArgumentInvalid:      http.StatusBadRequest,
	registry.InvalidOperation:     http.StatusBadRequest,
	registry.InvalidDeviceScope:   http.StatusBadRequest,
	deployment.InvalidContent:     http.StatusBadRequest,
	deployment.InvalidCondition:   http.StatusBadRequest,
	deployment.InvalidMetrics:     http.StatusBadRequest,
	deployment.ContentFixed:       http.StatusBadRequest,
	deployment.NotFound:           http.StatusNotFound,
	deployment.Exists:             http.StatusConflict,
	deployment.TooMany:            http.StatusRequestEntityTooLarge,
	unauthorized:                  http.StatusUnauthorized,
	unauthorizedAccess:            http.StatusUnauthorized,
	registry.SystemModuleReserved: http.StatusUnauthorized,
	queueFull:                     http.StatusForbidden,
	notFound:                      http.StatusNotFound,
	registry.DeviceNotFound:       http.StatusNotFound,
	registry.ModuleNotFound:       http.StatusNotFound,
	authority.NotFound:            http.StatusNotFound,
	authority.Exists:              http.StatusConflict,
	authority.TooMany:             http.StatusRequestEntityTooLarge,
	methodNotAllowed:              http.StatusMethodNotAllowed,
	registry.DeviceAlreadyExists:  http.StatusConflict,
	registry.ModuleAlreadyExists:  http.StatusConflict,
	cloud.ApplyRunning:            http.StatusConflict,
	registry.PreconditionFailed:   http.StatusPreconditionFailed,
	lockLost:                      http.StatusPreconditionFailed,
	registry.TooManyModules:       http.StatusRequestEntityTooLarge,
	tooLarge:                      http.StatusRequestEntityTooLarge,
	serverError:                   http.StatusInternalServerError,
	notImplemented:                http.StatusNotImplemented,
	unavailable:                   http.StatusServiceUnavailable,
}

func refuse(c registry.Code, format string, args ...any) error {
	return &registry.Error{Code: c, Text: fmt.Sprintf(format, args...)}
}

// fail answers with an error. What is no refusal is logged and becomes 500, or 503
// when the disk is full.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	var method *methodError
	if errors.As(err, &method) {
		a.failMethod(w, method)
		return
	}
	e := a.classify(r, err)
	status, ok := statuses[e.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Iothub-Errorcode", string(e.Code))
	body := rest.ErrorBody{
		// Clients split the text at semicolons.
		Message:          "ErrorCode:" + string(e.Code) + ";" + strings.ReplaceAll(e.Text, ";", ","),
		ExceptionMessage: "Tracking ID:" + a.trackingID(),
	}
	httpjson.Write(w, status, body)
}

func (a *API) classify(r *http.Request, err error) *registry.Error {
	var refusal *registry.Error
	var invalid *twin.InvalidError
	var body *http.MaxBytesError
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.As(err, &invalid):
		return &registry.Error{Code: registry.ArgumentInvalid, Text: invalid.Error()}
	case errors.Is(err, twin.ErrTooLarge):
		return &registry.Error{Code: tooLarge, Text: twin.ErrTooLarge.Error()}
	case errors.Is(err, c2d.ErrInvalid):
		return &registry.Error{Code: registry.ArgumentInvalid, Text: err.Error()}
	case errors.Is(err, c2d.ErrFull):
		return &registry.Error{Code: queueFull, Text: err.Error()}
	case errors.Is(err, c2d.ErrLockLost):
		return &registry.Error{Code: lockLost, Text: err.Error()}
	case errors.Is(err, c2d.ErrTooLarge), errors.Is(err, head.ErrTooLarge):
		return &registry.Error{Code: tooLarge, Text: err.Error()}
	case errors.As(err, &body):
		return &registry.Error{Code: tooLarge, Text: "the body is too large"}
	case errors.Is(err, access.ErrRefused):
		a.log.Info("request refused", "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr, "error", err)
		return &registry.Error{Code: unauthorized, Text: "the credentials are not valid"}
	case r.Context().Err() != nil, errors.Is(err, store.ErrFull), errors.Is(err, store.ErrClosed), errors.Is(err, c2d.ErrClosed):
		a.log.Warn("request not carried out", "method", r.Method, "path", r.URL.Path, "error", err)
		return &registry.Error{Code: unavailable, Text: "try again later"}
	}
	a.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	return &registry.Error{Code: serverError, Text: "internal error"}
}

// trackingID returns a new id in the form of IoT Hub.
func (a *API) trackingID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:]) + "-G:0-TimeStamp:" + a.now().UTC().Format("01/02/2006 15:04:05")
}

// methodError is a direct method that did not come about.
type methodError struct {
	status, code int
	message      string
	info         map[string]string
}

func (e *methodError) Error() string { return e.message }

// failMethod answers in the form that methods have had since 2018: JSON within the
// message.
func (a *API) failMethod(w http.ResponseWriter, e *methodError) {
	inner, err := json.Marshal(struct {
		ErrorCode    int               `json:"errorCode"`
		TrackingID   string            `json:"trackingId"`
		Message      string            `json:"message"`
		Info         map[string]string `json:"info"`
		TimestampUTC rest.Time         `json:"timestampUtc"`
	}{e.code, a.trackingID(), e.message, e.info, rest.Time{Time: a.now()}})
	if err != nil {
		inner = []byte("{}")
	}
	httpjson.Write(w, e.status, rest.ErrorBody{Message: string(inner)})
}

// timeSpan writes a duration as .NET does.
func timeSpan(d time.Duration) string {
	s := int(d / time.Second)
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

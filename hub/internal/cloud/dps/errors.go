package dps

import (
	"fmt"
	"net/http"
)

// Error is a refusal. Status is that of HTTP, Code the service's own number, whose
// first three digits are the status.
type Error struct {
	Status, Code int
	Text         string
	// challenge is what a device with a TPM has to prove, in an answer 401.
	challenge []byte
}

// Error returns code and text.
func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Text) }

func refuse(code int, format string, args ...any) error {
	return &Error{Status: code / 1000, Code: code, Text: fmt.Sprintf(format, args...)}
}

// Codes. Where the service in the cloud documents none, they are ours.
const (
	codeInvalid         = http.StatusBadRequest*1000 + 4
	codeNotAssigned     = http.StatusBadRequest*1000 + 207
	codeUnauthorized    = http.StatusUnauthorized*1000 + 2
	codeDisabled        = http.StatusForbidden*1000 + 201
	codeNotFound        = http.StatusNotFound * 1000
	codeNoEnrollment    = http.StatusNotFound*1000 + 201
	codeNoRegistration  = http.StatusNotFound*1000 + 204
	codeMethod          = http.StatusMethodNotAllowed * 1000
	codeExists          = http.StatusConflict*1000 + 201
	codeTooMany         = http.StatusConflict*1000 + 203
	codePrecondition    = http.StatusPreconditionFailed*1000 + 201
	codeTooLarge        = http.StatusRequestEntityTooLarge*1000 + 1
	codeInternal        = http.StatusInternalServerError*1000 + 1
	codeTryAgain        = http.StatusServiceUnavailable*1000 + 1
	unauthorizedText    = "Unauthorized"
	notRegisteredFormat = "registration %s is not known"
)

func errUnauthorized() error { return refuse(codeUnauthorized, unauthorizedText) }

func invalid(format string, args ...any) error { return refuse(codeInvalid, format, args...) }

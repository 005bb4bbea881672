package dps

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// ErrUnavailable is wrapped by failures that a later attempt may not meet: the
// service does not answer, or asks to wait.
var ErrUnavailable = errors.New("provisioning service not reachable")

// Error is a refusal by the service.
type Error struct {
	Status     int    // HTTP status
	State      string // of the registration: "failed", "disabled", "unassigned"; empty otherwise
	Code       int    // the service's own code, such as 401002; 0 if it gave none
	Message    string
	TrackingID string // for the service's operators
	RetryAfter time.Duration

	challenge []byte
}

// Error says in one line what the service said.
func (e *Error) Error() string {
	s := fmt.Sprintf("provisioning service answered %d", e.Status)
	if e.State != "" {
		s = "registration is " + e.State
	}
	if e.Code != 0 {
		s += fmt.Sprintf(", error %d", e.Code)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.TrackingID != "" {
		s += " (tracking id " + e.TrackingID + ")"
	}
	return s
}

// Temporary tells whether the same request may succeed later.
func (e *Error) Temporary() bool {
	return e.Status >= http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

// Is makes a temporary error an ErrUnavailable.
func (e *Error) Is(target error) bool { return target == ErrUnavailable && e.Temporary() }

// Statuses of a registration.
const (
	statusAssigning = "assigning"
	statusAssigned  = "assigned"
)

// answer is the service's to a registration or a poll.
type answer struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       state  `json:"registrationState"`
}

type state struct {
	AssignedHub  string          `json:"assignedHub"`
	DeviceID     string          `json:"deviceId"`
	Substatus    string          `json:"substatus"`
	ErrorCode    int             `json:"errorCode"`
	ErrorMessage string          `json:"errorMessage"`
	Payload      json.RawMessage `json:"payload"`
	TPM          *struct {
		AuthenticationKey []byte `json:"authenticationKey"`
	} `json:"tpm"`
}

func (a answer) final() bool { return a.Status != statusAssigning }

func parseAnswer(raw []byte) (answer, error) {
	var a answer
	if err := json.Unmarshal(raw, &a); err != nil {
		return answer{}, fmt.Errorf("answer is not understood: %w", err)
	}
	switch a.Status {
	case statusAssigning, statusAssigned, "failed", "disabled", "unassigned":
		return a, nil
	}
	return answer{}, fmt.Errorf("answer has the unknown status %q", a.Status)
}

// parseError reads the body of a refusal, as far as it is one.
func parseError(status int, header http.Header, raw []byte) *Error {
	e := &Error{Status: status, RetryAfter: retryAfter(header)}
	var doc struct {
		Code              int    `json:"errorCode"`
		Message           string `json:"message"`
		TrackingID        string `json:"trackingId"`
		AuthenticationKey []byte `json:"authenticationKey"`
	}
	if json.Unmarshal(raw, &doc) == nil {
		e.Code, e.Message, e.TrackingID, e.challenge = doc.Code, doc.Message, doc.TrackingID, doc.AuthenticationKey
	}
	if e.Message == "" {
		e.Message = http.StatusText(status)
	}
	return e
}

func retryAfter(header http.Header) time.Duration {
	n, err := strconv.Atoi(header.Get("Retry-After"))
	if err != nil || n < 0 || n > 1<<20 {
		return 0
	}
	return time.Duration(n) * time.Second
}

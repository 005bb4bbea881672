package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Error is an answer of the hub other than success. It is permanent unless
// Temporary says otherwise.
type Error struct {
	Status     int           // HTTP status
	Code       string        // "DeviceNotFound", or a number for methods; may be empty
	Message    string        // text for people
	RetryAfter time.Duration // as the hub asked; 0 if it did not
}

// Error describes the refusal in one line.
func (e *Error) Error() string {
	s := fmt.Sprintf("hub answered %d", e.Status)
	if e.Code != "" {
		s += " " + e.Code
	} else if t := http.StatusText(e.Status); t != "" {
		s += " " + t
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Temporary tells whether the same request may succeed later.
func (e *Error) Temporary() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

// StatusOf returns the HTTP status of the *Error within err, or 0 when the hub did
// not answer at all.
func StatusOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// parseError reads the bodies of spec iothub-service 2.2: "ErrorCode:X;text", the
// nested JSON of methods, and the "errorMessage" of other implementations.
func parseError(status int, header http.Header, body []byte) *Error {
	e := &Error{Status: status, Code: header.Get("Iothub-Errorcode")}
	if d, err := time.ParseDuration(header.Get("Retry-After") + "s"); err == nil && d > 0 {
		e.RetryAfter = d
	}
	var doc struct {
		Message      string
		ErrorMessage string
	}
	if json.Unmarshal(body, &doc) != nil {
		return e
	}
	text := doc.Message
	if text == "" {
		text = doc.ErrorMessage
	}
	var nested struct {
		ErrorCode json.Number `json:"errorCode"`
		Message   string      `json:"message"`
	}
	if strings.HasPrefix(text, "{") && json.Unmarshal([]byte(text), &nested) == nil {
		e.Code, e.Message = nested.ErrorCode.String(), nested.Message
		return e
	}
	if head, rest, ok := strings.Cut(text, ";"); ok {
		if code, found := strings.CutPrefix(head, "ErrorCode:"); found {
			if e.Code == "" {
				e.Code = code
			}
			text = rest
		}
	}
	e.Message = strings.TrimSpace(text)
	return e
}

package head

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/rs/xid"
)

// twinFailure is the body of a failed twin request. Its errorCode is what the Node
// SDK decides on, so it is there whatever the status.
type twinFailure struct {
	ErrorCode    int    `json:"errorCode"`
	TrackingID   string `json:"trackingId"`
	Message      string `json:"message"`
	TimestampUTC string `json:"timestampUtc"`
}

// TwinFailure is what a client is answered whose twin request has failed. Only errors
// about the request itself carry their text. An edge hub says 400 or 500, as the
// original does.
func TwinFailure(err error, edge bool) (status int, body []byte) {
	status, code, text := twinStatus(err)
	if edge {
		switch status {
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusPreconditionFailed:
			status, code = http.StatusBadRequest, 400004
		case http.StatusTooManyRequests: // of the head, not of the original's
		default:
			status, code = http.StatusInternalServerError, 500001
		}
	}
	body, merr := json.Marshal(twinFailure{
		ErrorCode:    code,
		TrackingID:   xid.New().String(),
		Message:      text,
		TimestampUTC: time.Now().UTC().Format(time.RFC3339),
	})
	if merr != nil {
		body = nil // cannot be: numbers and strings
	}
	return status, body
}

func twinStatus(err error) (status, code int, text string) {
	switch {
	case errors.Is(err, ErrInvalid):
		return http.StatusBadRequest, 400004, err.Error()
	case errors.Is(err, ErrTooLarge):
		return http.StatusRequestEntityTooLarge, 413001, err.Error()
	case errors.Is(err, ErrPrecondition):
		return http.StatusPreconditionFailed, 412001, err.Error()
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound, 404001, "The identity does not exist."
	case errors.Is(err, ErrUnauthorized):
		return http.StatusUnauthorized, 401003, "The identity is not authorized."
	case errors.Is(err, ErrThrottled):
		return http.StatusTooManyRequests, 429001, "Too many requests."
	case errors.Is(err, ErrUnavailable):
		return http.StatusServiceUnavailable, 503001, "The service is not available now."
	}
	return http.StatusInternalServerError, 500001, "Internal error."
}

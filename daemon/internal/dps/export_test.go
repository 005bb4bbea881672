package dps

import "net/http"

// ParseAnswer reads an answer as the client does and returns the registration's
// status.
func ParseAnswer(status int, body []byte) (string, error) {
	if status != http.StatusOK && status != http.StatusAccepted {
		return "", parseError(status, http.Header{}, body)
	}
	a, err := parseAnswer(body)
	return a.Status, err
}

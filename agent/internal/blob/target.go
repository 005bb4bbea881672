package blob

import (
	"errors"
	"net/url"
	"strings"
)

// Target is where to upload to: a container or folder, with its authorization.
// It prints as stars.
type Target struct{ base *url.URL }

// ParseTarget reads a URL. The error does not show it.
func ParseTarget(text string) (Target, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	switch {
	case err != nil:
		return Target{}, errors.New("is no URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return Target{}, errors.New("must begin with https:// or http://")
	case u.Hostname() == "":
		return Target{}, errors.New("names no host")
	}
	u.Fragment = ""
	return Target{base: u}, nil
}

// String returns stars.
func (Target) String() string { return "***" }

// GoString returns stars.
func (Target) GoString() string { return "***" }

// signed tells whether the URL is a shared access signature of Azure storage, whose
// protocol has blocks; another target gets one PUT.
func (t Target) signed() bool {
	q := t.base.Query()
	return q.Has("sig") && q.Has("sv")
}

// at is the URL of one blob, with more parameters.
func (t Target) at(name string, more url.Values) string {
	u := *t.base.JoinPath(strings.Split(name, "/")...)
	if len(more) > 0 {
		// The signature's own parameters stay as they were written.
		if u.RawQuery != "" {
			u.RawQuery += "&"
		}
		u.RawQuery += more.Encode()
	}
	return u.String()
}

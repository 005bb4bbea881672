package pkcs11

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// URI names a key, or a token when it names no object (RFC 7512). PIN is a secret.
type URI struct {
	Token  string `json:"token,omitempty"`
	Serial string `json:"serial,omitempty"`
	Slot   *uint  `json:"slot,omitempty"`
	Object string `json:"object,omitempty"`
	ID     []byte `json:"id,omitempty"`
	PIN    string `json:"pin,omitempty"`
}

var errURI = errors.New("pkcs11 URI")

// ParseURI reads a URI. A pin-source, a file, is read for the PIN. Attributes that do
// not matter here (library, manufacturer, type) are skipped, unknown ones refused.
// Errors hold no PIN.
func ParseURI(s string) (URI, error) {
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return URI{}, fmt.Errorf("%w: does not begin with \"pkcs11:\"", errURI)
	}
	path, query, _ := strings.Cut(rest, "?")
	var u URI
	for field := range strings.SplitSeq(path, ";") {
		if field == "" {
			continue
		}
		if err := u.set(field); err != nil {
			return URI{}, err
		}
	}
	for field := range strings.SplitSeq(query, "&") {
		if field == "" {
			continue
		}
		name, value, err := attribute(field)
		if err != nil {
			return URI{}, err
		}
		switch name {
		case "pin-value":
			u.PIN = value
		case "pin-source":
			text, err := os.ReadFile(strings.TrimPrefix(strings.TrimPrefix(value, "file:"), "//"))
			if err != nil {
				return URI{}, fmt.Errorf("%w: pin-source: %w", errURI, err)
			}
			u.PIN = strings.TrimRight(string(text), "\r\n")
		case "module-name", "module-path":
		default:
			return URI{}, fmt.Errorf("%w: unknown attribute in the query", errURI)
		}
	}
	return u, nil
}

func (u *URI) set(field string) error {
	name, value, err := attribute(field)
	if err != nil {
		return err
	}
	switch name {
	case "token":
		u.Token = value
	case "serial":
		u.Serial = value
	case "slot-id":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return fmt.Errorf("%w: slot-id is no number", errURI)
		}
		slot := uint(n)
		u.Slot = &slot
	case "object":
		u.Object = value
	case "id":
		u.ID = []byte(value)
	case "type", "manufacturer", "model", "library-manufacturer", "library-description", "library-version", "slot-manufacturer", "slot-description":
	default:
		return fmt.Errorf("%w: unknown attribute", errURI)
	}
	return nil
}

func attribute(field string) (name, value string, err error) {
	name, value, ok := strings.Cut(field, "=")
	if !ok {
		return "", "", fmt.Errorf("%w: attribute without a value", errURI)
	}
	if value, err = url.PathUnescape(value); err != nil {
		return "", "", fmt.Errorf("%w: attribute with a broken escape", errURI)
	}
	return name, value, nil
}

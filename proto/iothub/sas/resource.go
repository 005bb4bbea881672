package sas

import (
	"errors"
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// ErrAudience is wrapped by errors about a resource that names no hub, device or
// module.
var ErrAudience = errors.New("token audience")

// Audience is what a token is for: a hub (only Host), a device or a module. Host
// is without port. Compare all three without regard to case.
type Audience struct {
	Host   string
	Device string
	Module string
}

// Identity returns the device or module; zero if the token is for a whole hub.
func (a Audience) Identity() iothub.Identity {
	return iothub.Identity{Device: a.Device, Module: a.Module}
}

// AudienceOption changes how Audience reads a resource.
type AudienceOption uint8

// AllowExtraPath makes Audience skip path parts behind the longest known prefix,
// such as "/api-version=2016-11-14" or, behind the host, "/messages/events".
const AllowExtraPath AudienceOption = 1

// Path returns the decoded resource split at its slashes. A resource that was
// encoded twice as a whole is decoded twice; a scheme before it is left out, which
// some services write.
func (t Token) Path() []string {
	s := unescape(t.Resource)
	if strings.IndexByte(s, '/') < 0 && strings.Contains(strings.ToLower(s), "%2f") {
		s = unescape(s)
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok && strings.IndexByte(scheme, '/') < 0 {
		s = rest
	}
	return strings.Split(s, "/")
}

// Audience decodes the resource: "{host}", "{host}/devices/{d}" or
// "{host}/devices/{d}/modules/{m}", where the ids may be encoded once more, as the
// SDKs do. Errors wrap ErrAudience.
//
// An id that really holds a percent escape cannot be told from an encoded one;
// Covers accepts both readings.
func (t Token) Audience(options ...AudienceOption) (Audience, error) {
	host, ids, extra, err := splitPath(t.Path())
	if err != nil {
		return Audience{}, err
	}
	allow := false
	for _, o := range options {
		allow = allow || o == AllowExtraPath
	}
	if extra && !allow {
		return Audience{}, fmt.Errorf("%w: path is not that of a hub, device or module", ErrAudience)
	}
	a := Audience{Host: host}
	for i, dst := range [...]*string{&a.Device, &a.Module} {
		if i >= len(ids) {
			break
		}
		*dst = unescape(ids[i])
		if err := iothub.CheckID(*dst); err != nil {
			return Audience{}, fmt.Errorf("%w: %w", ErrAudience, err)
		}
	}
	return a, nil
}

// Covers tells whether the resource names exactly this device or module, without
// regard to case and whether its ids are encoded once or twice. It does not look
// at the host, and path parts behind the id are skipped.
func (t Token) Covers(id iothub.Identity) bool {
	_, ids, _, err := splitPath(t.Path())
	if err != nil || id.IsZero() {
		return false
	}
	want := []string{id.Device}
	if id.IsModule() {
		want = append(want, id.Module)
	}
	if len(ids) != len(want) {
		return false
	}
	for i := range want {
		if !strings.EqualFold(ids[i], want[i]) && !strings.EqualFold(unescape(ids[i]), want[i]) {
			return false
		}
	}
	return true
}

// splitPath finds host and ids (none, device, or device and module) in a path;
// extra tells that there is more.
func splitPath(path []string) (host string, ids []string, extra bool, err error) {
	host = path[0]
	if name, port, ok := strings.Cut(host, ":"); ok && digits(port) {
		host = name
	}
	if host == "" {
		return "", nil, false, fmt.Errorf("%w: no host", ErrAudience)
	}
	path = path[1:]
	for _, word := range [...]string{"devices", "modules"} {
		if len(path) < 2 || !strings.EqualFold(path[0], word) {
			break
		}
		ids, path = append(ids, path[1]), path[2:]
	}
	return host, ids, len(path) > 0, nil
}

// DeviceResource returns the encoded resource of a device or module for New, in
// the form of the SDKs: ids encoded, then the whole.
func DeviceResource(host string, id iothub.Identity) string {
	s := host + "/devices/" + escape(id.Device)
	if id.IsModule() {
		s += "/modules/" + escape(id.Module)
	}
	return escape(s)
}

// RegistrationResource returns the encoded resource of a registration at the device
// provisioning service; tokens for it name the key "registration".
func RegistrationResource(idScope, registration string) string {
	return escape(idScope + "/registrations/" + registration)
}

// HubResource returns the encoded resource of a whole hub, for policy keys.
func HubResource(host string) string { return escape(host) }

const upperHex = "0123456789ABCDEF"

// escape percent-encodes all but unreserved bytes (RFC 3986 2.3).
func escape(s string) string {
	b := make([]byte, 0, len(s)+16)
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
			b = append(b, c)
		default:
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return string(b)
}

// unescape percent-decodes s. "+" stays a plus and broken escapes stay as they
// are, because some clients do not encode at all.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := hexDigit(s[i+1]), hexDigit(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

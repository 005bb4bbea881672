// Package connstr reads connection strings of IoT Hub: those of devices, modules
// and service policies (spec iothub-service 1.1).
package connstr

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// ErrMalformed is wrapped by every error about a connection string. Such errors
// name the field and its position, never a value and never an unknown name, since
// a mistyped string may have its secret anywhere.
var ErrMalformed = errors.New("malformed connection string")

// String is a connection string taken apart. All ways to print or encode it put
// stars in place of secrets; only Reveal shows them.
type String struct {
	HostName              string // name of the hub; what is signed and named
	DeviceID              string
	ModuleID              string
	SharedAccessKeyName   string // policy, in a service connection string
	SharedAccessKey       sas.Key
	SharedAccessSignature string // ready-made token in place of a key
	GatewayHostName       string // what to dial in place of HostName
	X509                  bool   // the client certificate takes the place of a key
}

// Field names.
const (
	hostName  = "HostName"
	deviceID  = "DeviceId"
	moduleID  = "ModuleId"
	keyName   = "SharedAccessKeyName"
	key       = "SharedAccessKey"
	signature = "SharedAccessSignature"
	gateway   = "GatewayHostName"
	x509      = "x509"
)

// Parse reads a connection string of a device, a module or a service policy.
// Names of fields are case-sensitive, except that of x509. It must name a host,
// and either a device with exactly one kind of credential or a policy with its
// key. Errors wrap ErrMalformed.
func Parse(s string) (String, error) {
	var c String
	seen := map[string]bool{}
	n := 0
	for field := range strings.SplitSeq(strings.TrimSpace(s), ";") {
		n++
		if field == "" {
			continue
		}
		name, value, ok := strings.Cut(field, "=")
		if !ok {
			return String{}, fmt.Errorf("%w: field %d has no %q", ErrMalformed, n, "=")
		}
		if strings.EqualFold(name, x509) {
			name = x509
		}
		if reason := c.set(name, value); reason != "" {
			return String{}, fmt.Errorf("%w: field %d: %s", ErrMalformed, n, reason)
		}
		if seen[name] {
			return String{}, fmt.Errorf("%w: field %d: %s again", ErrMalformed, n, name)
		}
		seen[name] = true
	}
	if err := c.check(); err != nil {
		return String{}, err
	}
	return c, nil
}

// set stores one field and returns what is wrong with it, or "".
func (s *String) set(name, value string) string {
	var dst *string
	switch name {
	case hostName:
		dst = &s.HostName
	case deviceID:
		dst = &s.DeviceID
	case moduleID:
		dst = &s.ModuleID
	case keyName:
		dst = &s.SharedAccessKeyName
	case signature:
		dst = &s.SharedAccessSignature
	case gateway:
		dst = &s.GatewayHostName
	case key:
		k, err := sas.ParseKey(value)
		if err != nil {
			return name + ": " + err.Error()
		}
		s.SharedAccessKey = k
		return ""
	case x509:
		if !strings.EqualFold(value, "true") && !strings.EqualFold(value, "false") {
			return name + " is neither true nor false"
		}
		s.X509 = strings.EqualFold(value, "true")
		return ""
	default:
		return "unknown name"
	}
	if value == "" {
		return name + " is empty"
	}
	*dst = value
	if name == deviceID || name == moduleID {
		if iothub.CheckID(value) != nil {
			return name + " is no valid id"
		}
	}
	return ""
}

// check tells whether the fields make sense together.
func (s *String) check() error {
	if s.HostName == "" {
		return fmt.Errorf("%w: no %s", ErrMalformed, hostName)
	}
	if s.DeviceID == "" {
		switch {
		case s.ModuleID != "":
			return fmt.Errorf("%w: %s without %s", ErrMalformed, moduleID, deviceID)
		case s.SharedAccessKeyName == "":
			return fmt.Errorf("%w: neither %s nor %s", ErrMalformed, deviceID, keyName)
		case len(s.SharedAccessKey) == 0 && s.SharedAccessSignature == "":
			return fmt.Errorf("%w: no %s", ErrMalformed, key)
		case s.X509:
			return fmt.Errorf("%w: %s with a policy", ErrMalformed, x509)
		}
		return nil
	}
	credentials := 0
	for _, has := range [...]bool{len(s.SharedAccessKey) > 0, s.SharedAccessSignature != "", s.X509} {
		if has {
			credentials++
		}
	}
	if credentials != 1 {
		return fmt.Errorf("%w: want exactly one of %s, %s and %s=true", ErrMalformed, key, signature, x509)
	}
	return nil
}

// Identity returns the device or module; zero for a service policy.
func (s String) Identity() iothub.Identity {
	return iothub.Identity{Device: s.DeviceID, Module: s.ModuleID}
}

// Reveal writes the connection string with its secrets, as Parse reads it.
func (s String) Reveal() string { return s.text(s.SharedAccessKey.Base64(), s.SharedAccessSignature) }

// String writes the connection string with stars in place of secrets.
func (s String) String() string { return s.text("***", "***") }

// Format prints String for every verb.
func (s String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue returns String.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns String, so that JSON shows no secret either.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s String) text(keyText, signatureText string) string {
	var b strings.Builder
	add := func(name, value string) {
		if b.Len() > 0 {
			b.WriteByte(';')
		}
		b.WriteString(name + "=" + value)
	}
	for _, f := range [...][2]string{
		{hostName, s.HostName}, {deviceID, s.DeviceID}, {moduleID, s.ModuleID}, {keyName, s.SharedAccessKeyName},
	} {
		if f[1] != "" {
			add(f[0], f[1])
		}
	}
	if len(s.SharedAccessKey) > 0 {
		add(key, keyText)
	}
	if s.SharedAccessSignature != "" {
		add(signature, signatureText)
	}
	if s.X509 {
		add(x509, "true")
	}
	if s.GatewayHostName != "" {
		add(gateway, s.GatewayHostName)
	}
	return b.String()
}

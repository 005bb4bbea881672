package registry

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Sizes of keys that IoT Hub takes, in bytes.
const (
	minKey, newKey, maxKey = 16, 32, 64
)

// NewKey returns a random key in base64.
func NewKey() string {
	var b [newKey]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return base64.StdEncoding.EncodeToString(b[:])
}

// normalize completes the authentication of a request: in may be nil, then old
// stays, and without old keys are made.
func normalize(in, old *rest.Authentication) (*rest.Authentication, error) {
	if in == nil {
		if old != nil {
			return old, nil
		}
		in = &rest.Authentication{}
	}
	kind, err := kindOf(in)
	if err != nil {
		return nil, err
	}
	out := &rest.Authentication{Type: kind}
	switch kind {
	case rest.AuthSAS:
		for _, k := range []struct {
			from rest.Secret
			to   *rest.Secret
		}{
			{in.SymmetricKey.PrimaryKey, &out.SymmetricKey.PrimaryKey},
			{in.SymmetricKey.SecondaryKey, &out.SymmetricKey.SecondaryKey},
		} {
			if k.from == "" {
				*k.to = rest.Secret(NewKey())
				continue
			}
			raw, err := base64.StdEncoding.DecodeString(k.from.Reveal())
			if err != nil || len(raw) < minKey || len(raw) > maxKey {
				return nil, refuse(ArgumentInvalid, "a symmetric key must be base64 of %d to %d bytes", minKey, maxKey)
			}
			*k.to = k.from
		}
	case rest.AuthSelfSigned:
		x := in.X509Thumbprint
		if out.X509Thumbprint.PrimaryThumbprint, err = thumbprint(x.PrimaryThumbprint); err != nil {
			return nil, err
		}
		if out.X509Thumbprint.SecondaryThumbprint, err = thumbprint(x.SecondaryThumbprint); err != nil {
			return nil, err
		}
		if out.X509Thumbprint == (rest.X509Thumbprint{}) {
			return nil, refuse(ArgumentInvalid, "selfSigned needs a thumbprint")
		}
	}
	return out, nil
}

func kindOf(in *rest.Authentication) (string, error) {
	if in.Type == "" {
		if in.X509Thumbprint.PrimaryThumbprint != "" || in.X509Thumbprint.SecondaryThumbprint != "" {
			return rest.AuthSelfSigned, nil
		}
		return rest.AuthSAS, nil
	}
	for _, k := range []string{rest.AuthSAS, rest.AuthSelfSigned, rest.AuthCertificate, rest.AuthNone} {
		if strings.EqualFold(in.Type, k) {
			return k, nil
		}
	}
	return "", refuse(ArgumentInvalid, "authentication type %.40q is unknown", in.Type)
}

func thumbprint(t rest.Text) (rest.Text, error) {
	v := strings.ToUpper(strings.NewReplacer(":", "", " ", "").Replace(string(t)))
	if v == "" {
		return "", nil
	}
	if raw, err := hex.DecodeString(v); err != nil || (len(raw) != 20 && len(raw) != 32) {
		return "", refuse(ArgumentInvalid, "a thumbprint has 40 or 64 hexadecimal digits")
	}
	return rest.Text(v), nil
}

// cloneAuth returns a copy that the caller may keep and change.
func cloneAuth(a *rest.Authentication) *rest.Authentication {
	c := *a
	return &c
}

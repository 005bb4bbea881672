package sas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

const scheme = "SharedAccessSignature"

// Skew is how long after its expiry a token still counts (spec iothub-mqtt 3.2).
const Skew = 5 * time.Minute

// ErrMalformed is wrapped by every error about the text of a token. Such errors
// name the field and never hold its signature.
var ErrMalformed = errors.New("malformed token")

// Token is a token taken apart. Its signature is not checked yet: see Verify.
type Token struct {
	Resource   string // sr exactly as in the token, still encoded
	Signature  []byte
	Expiry     time.Time
	ExpiryText string // se exactly as in the token
	KeyName    string // skn, decoded; empty for keys of devices and modules
}

// Parse reads a token. Fields may come in any order, their names in any case;
// unknown ones are skipped and repeated ones refused. Errors wrap ErrMalformed.
func Parse(s string) (Token, error) {
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok || rest == "" || (rest[0] != ' ' && rest[0] != '\t') {
		return Token{}, fmt.Errorf("%w: does not start with %q and a blank", ErrMalformed, scheme)
	}
	var sr, sig, se, skn *string
	for field := range strings.SplitSeq(rest[1:], "&") {
		name, value, _ := strings.Cut(field, "=")
		var dst **string
		switch strings.ToLower(name) {
		case "sr":
			dst = &sr
		case "sig":
			dst = &sig
		case "se":
			dst = &se
		case "skn":
			dst = &skn
		default:
			continue
		}
		if *dst != nil {
			return Token{}, fmt.Errorf("%w: %s twice", ErrMalformed, strings.ToLower(name))
		}
		*dst = &value
	}
	for _, f := range [...]struct {
		name  string
		value *string
	}{{"sr", sr}, {"sig", sig}, {"se", se}} {
		if f.value == nil || *f.value == "" {
			return Token{}, fmt.Errorf("%w: no %s", ErrMalformed, f.name)
		}
	}
	t := Token{Resource: *sr, ExpiryText: *se}
	if skn != nil {
		t.KeyName = unescape(*skn)
	}
	var err error
	if t.Signature, err = base64.StdEncoding.DecodeString(unescape(*sig)); err != nil {
		return Token{}, fmt.Errorf("%w: sig is not base64", ErrMalformed)
	}
	if t.Expiry, err = parseExpiry(*se); err != nil {
		return Token{}, err
	}
	return t, nil
}

// farAway stands for expiries that time.Time could not compare.
var farAway = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// parseExpiry reads unix seconds; a fraction is cut off.
func parseExpiry(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	if !digits(whole) || whole == "" || !digits(fraction) {
		return time.Time{}, fmt.Errorf("%w: se is not a number of seconds", ErrMalformed)
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > farAway.Unix() {
		return farAway, nil //nolint:nilerr // digits only: the number is too large
	}
	return time.Unix(n, 0).UTC(), nil
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// Verify tells whether key made the signature. It takes the same time for every
// signature of the right length, and does not look at the expiry.
func (t Token) Verify(key []byte) bool {
	if len(key) == 0 {
		return false
	}
	h := hmac.New(sha256.New, key)
	h.Write(stringToSign(t.Resource, t.ExpiryText))
	return hmac.Equal(h.Sum(nil), t.Signature)
}

// Expired tells whether the token is more than Skew past its expiry.
func (t Token) Expired(now time.Time) bool { return now.After(t.Expiry.Add(Skew)) }

// LogValue leaves the signature out.
func (t Token) LogValue() slog.Value {
	return slog.GroupValue(slog.String("sr", t.Resource), slog.String("se", t.ExpiryText), slog.String("skn", t.KeyName))
}

// String describes the token without its signature.
func (t Token) String() string {
	s := scheme + " sr=" + t.Resource + "&sig=" + stars + "&se=" + t.ExpiryText
	if t.KeyName != "" {
		s += "&skn=" + escape(t.KeyName)
	}
	return s
}

// GoString is String.
func (t Token) GoString() string { return t.String() }

// New makes a token for a resource that is already encoded (DeviceResource, or an
// escaped host name for a policy), valid until expiry. keyName is empty for keys
// of devices and modules. sign gets the bytes to sign; its error is returned.
func New(resource string, expiry time.Time, keyName string, sign func(data []byte) ([]byte, error)) (string, error) {
	se := strconv.FormatInt(expiry.Unix(), 10)
	sig, err := sign(stringToSign(resource, se))
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	s := scheme + " sr=" + resource + "&sig=" + escape(base64.StdEncoding.EncodeToString(sig)) + "&se=" + se
	if keyName != "" {
		s += "&skn=" + escape(keyName)
	}
	return s, nil
}

func stringToSign(resource, expiry string) []byte {
	return []byte(resource + "\n" + expiry)
}

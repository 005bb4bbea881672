package verify

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// IsTrustedRoot tells a file with Sigstore's authorities and logs (trusted_root.json)
// from one with PEM.
func IsTrustedRoot(data []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) }

// ParseIdentity reads who may sign without a key of his own, as in "issuer=https://x.y,
// subject=https://x.y/team/*": who has vouched for him, and his address or URI. A * is
// any number of characters, none of them a white space. The results are regular expressions for
// all of the text.
func ParseIdentity(s string) (issuer, subject string, err error) {
	rest, ok := strings.CutPrefix(s, "issuer=")
	if ok {
		issuer, subject, ok = strings.Cut(rest, ", subject=")
	}
	if !ok {
		return "", "", fmt.Errorf("identity %q is not like \"issuer=https://issuer.example.com, subject=*@example.com\"", s)
	}
	for _, part := range []*string{&issuer, &subject} {
		if strings.Trim(*part, "* ") == "" {
			return "", "", fmt.Errorf("identity %q lets in everybody", s)
		}
		*part = "^" + strings.ReplaceAll(regexp.QuoteMeta(*part), `\*`, `\S*`) + "$"
	}
	return issuer, subject, nil
}

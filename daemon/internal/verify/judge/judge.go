// Package judge says whether a signature of an image is good: Notary Project
// signatures by notation-go, cosign's by Sigstore's library. It works on what it is
// given and touches neither network nor files.
//
// It is linked into edged-verify alone: with its libraries the daemon would be half
// as large again.
package judge

import (
	"context"
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

// maxReason bounds what a verdict says of each signature.
const maxReason = 300

// Judge answers a request. One good signature is enough.
func Judge(ctx context.Context, r verify.Request) verify.Verdict {
	var one func(context.Context, verify.Signature) (by string, err error)
	var err error
	switch r.Rule {
	case verify.Notation:
		one, err = newNotation(r)
	case verify.Cosign:
		one, err = newCosign(r)
	default:
		err = fmt.Errorf("rule %q asks for no signature", r.Rule)
	}
	if err != nil {
		return verify.Verdict{Reason: err.Error()}
	}
	if len(r.Signatures) == 0 {
		return verify.Verdict{Reason: fmt.Sprintf("no %s signature was found", r.Rule)}
	}
	var reasons []string
	for i, s := range r.Signatures {
		by, err := one(ctx, s)
		if err == nil {
			return verify.Verdict{Trusted: true, By: by}
		}
		if i < 3 {
			text := err.Error()
			reasons = append(reasons, text[:min(len(text), maxReason)])
		}
	}
	return verify.Verdict{Reason: fmt.Sprintf("none of %d signatures is good: %s", len(r.Signatures), strings.ToValidUTF8(strings.Join(reasons, "; "), "?"))}
}

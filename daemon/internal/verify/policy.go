// Package verify decides whether an image may run: it finds the policy for the
// image's repository, brings the image's signatures from its registry, has them
// judged by a program of their own (edged-verify), and remembers the verdict.
//
// The decision is always about a digest, the one that is then pulled, from which a
// container is made, and which a container that starts was made from. A verdict
// that is remembered holds as long as the policy and its trust files stay the same,
// so that a device that is offline starts its modules; the signatures are kept
// beside it to be judged again when they do change.
//
// The libraries that understand signatures are large and read what strangers wrote,
// so they are not in the daemon: see package judge.
package verify

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Rule is what a policy asks of an image.
type Rule string

// The rules, from the weakest.
const (
	Any      Rule = "any"      // nothing
	Digest   Rule = "digest"   // the reference names a digest
	Notation Rule = "notation" // a Notary Project signature by a certificate that is trusted
	Cosign   Rule = "cosign"   // a cosign signature by a key or an identity that is trusted
)

// signed says whether the rule asks for signatures.
func (r Rule) signed() bool { return r == Notation || r == Cosign }

// Policy is a rule for the repositories that Pattern names.
type Policy struct {
	// Pattern is "*" (everything), a registry ("reg.example.com:5000"), a registry and
	// the beginning of a path ("reg.example.com/team/*"), or one repository
	// ("reg.example.com/team/app"). Names of Docker Hub are written out, as in
	// "docker.io/library/alpine".
	Pattern string
	Rule    Rule
	// Trust are files with PEM: certificates that signers' chains must lead to
	// (Notation) or public keys (Cosign); for Cosign also trusted_root.json.
	Trust []string
	// Identities are, for Notation, distinguished names of which the signer's must hold
	// all parts, as in "C=DE, O=Example"; empty means every signer with a trusted chain.
	// For Cosign they are what ParseIdentity reads; those with a trusted root need one.
	Identities []string
}

var patternPart = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*$`)

var patternHost = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(:[0-9]{1,5})?$`)

// CheckPattern reports what is wrong with a pattern.
func CheckPattern(s string) error {
	if s == "*" {
		return nil
	}
	host, path, deep := strings.Cut(s, "/")
	if !patternHost.MatchString(host) || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return fmt.Errorf("%q does not begin with a registry such as docker.io", s)
	}
	if !deep {
		return nil
	}
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if p == "*" && i == len(parts)-1 {
			continue
		}
		if !patternPart.MatchString(p) {
			return fmt.Errorf("%q: %q is not part of a repository's name; * may only stand alone at the end", s, p)
		}
	}
	return nil
}

// prefix is what names that the pattern covers begin with; exact says that they
// are equal to it.
func prefix(pattern string) (_ string, exact bool) {
	switch {
	case pattern == "*":
		return "", false
	case !strings.Contains(pattern, "/"):
		return pattern + "/", false
	case strings.HasSuffix(pattern, "/*"):
		return strings.TrimSuffix(pattern, "*"), false
	}
	return pattern, true
}

// Policies finds the policy for a repository. The zero value has none.
type Policies struct{ list []Policy }

// NewPolicies orders policies; patterns are taken as checked.
func NewPolicies(list []Policy) Policies {
	list = slices.Clone(list)
	// The longest first: of those that match a name, all but an exact one are
	// beginnings of it.
	slices.SortStableFunc(list, func(a, b Policy) int {
		pa, ea := prefix(a.Pattern)
		pb, eb := prefix(b.Pattern)
		switch {
		case ea == eb:
			return len(pb) - len(pa)
		case ea:
			return -1
		}
		return 1
	})
	return Policies{list: list}
}

// Empty says that there are no policies: every image may run.
func (p Policies) Empty() bool { return len(p.list) == 0 }

// For returns the most specific policy for a repository, whose name is complete
// ("docker.io/library/alpine").
func (p Policies) For(repository string) (Policy, bool) {
	for _, c := range p.list {
		pre, exact := prefix(c.Pattern)
		if exact && repository == pre || !exact && strings.HasPrefix(repository, pre) {
			return c, true
		}
	}
	return Policy{}, false
}

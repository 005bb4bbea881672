package config

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

// Verification says which images may run. Without a policy all may; with one, an
// image that no policy is for may not.
type Verification struct {
	Policies []ImagePolicy `toml:"policy"`
}

// ImagePolicy is an entry [[image_verification.policy]].
type ImagePolicy struct {
	// Images are patterns; see verify.Policy.
	Images []string `toml:"images"`
	// Require is "any", "digest", "notation" or "cosign".
	Require string `toml:"require"`
	// Trust are PEM files: certificates for notation, public keys for cosign, which
	// also takes trusted_root.json. File paths after Load.
	Trust []string `toml:"trust"`
	// Identities are distinguished names of signers for notation, and issuers and
	// subjects for cosign; see verify.ParseIdentity.
	Identities []string `toml:"identities"`
}

// ImagePolicies returns the policies in the form of package verify.
func (c Verification) ImagePolicies() verify.Policies {
	var out []verify.Policy
	for _, p := range c.Policies {
		for _, image := range p.Images {
			out = append(out, verify.Policy{
				Pattern: image, Rule: verify.Rule(p.Require), Trust: p.Trust, Identities: p.Identities,
			})
		}
	}
	return verify.NewPolicies(out)
}

func (v *validator) verification() {
	seen := map[string]string{}
	for i := range v.c.Verification.Policies {
		p := &v.c.Verification.Policies[i]
		key := fmt.Sprintf("image_verification.policy[%d]", i)
		if len(p.Images) == 0 {
			v.bad(key+".images", "missing")
		}
		for _, image := range p.Images {
			if err := verify.CheckPattern(image); err != nil {
				v.bad(key+".images", "%v", err)
			}
			if first, ok := seen[image]; ok {
				v.bad(key+".images", "%q is in %s too", image, first)
			}
			seen[image] = key
		}
		signed, roots := false, false
		switch verify.Rule(p.Require) {
		case verify.Any, verify.Digest:
		case verify.Notation:
			signed = true
			v.trust(key, p, false, "CERTIFICATE")
		case verify.Cosign:
			signed = true
			roots = v.trust(key, p, true, "PUBLIC KEY", "RSA PUBLIC KEY")
			v.identities(key, p, roots)
		default:
			v.bad(key+".require", "must be \"any\", \"digest\", \"notation\" or \"cosign\"")
			continue
		}
		if !signed && len(p.Trust) > 0 {
			v.bad(key+".trust", "has no use with require = %q", p.Require)
		}
		if p.Require != string(verify.Notation) && !roots && len(p.Identities) > 0 {
			v.bad(key+".identities", "has no use with require = %q", p.Require)
		}
	}
}

// identities looks at those who may sign by certificates of a trusted root.
func (v *validator) identities(key string, p *ImagePolicy, roots bool) {
	if roots && len(p.Identities) == 0 {
		v.bad(key+".identities", "missing: everybody has a certificate of such an authority")
	}
	for _, id := range p.Identities {
		if _, _, err := verify.ParseIdentity(id); roots && err != nil {
			v.bad(key+".identities", "%v", err)
		}
	}
}

// trust looks into the files, so that a wrong one is found before an image is
// refused for it, and returns whether there is a trusted root among them, which must
// be allowed.
func (v *validator) trust(key string, p *ImagePolicy, rootsToo bool, kinds ...string) (roots bool) {
	key += ".trust"
	if len(p.Trust) == 0 {
		v.bad(key, "missing: without it nobody is trusted")
	}
	for i, file := range p.Trust {
		p.Trust[i] = v.file(key, file)
		if p.Trust[i] == "" {
			continue
		}
		data, err := os.ReadFile(p.Trust[i])
		if err != nil {
			v.bad(key, "%v", err)
			continue
		}
		if rootsToo && verify.IsTrustedRoot(data) {
			roots = true
			if !json.Valid(data) {
				v.bad(key, "%s: is neither PEM nor JSON", p.Trust[i])
			}
			continue
		}
		if err := onlyPEM(data, kinds); err != nil {
			v.bad(key, "%s: %v", p.Trust[i], err)
		}
	}
	return roots
}

// onlyPEM reports whether data is PEM blocks of these kinds, and at least one.
func onlyPEM(data []byte, kinds []string) error {
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		n++
		known := false
		for _, k := range kinds {
			known = known || block.Type == k
		}
		if !known {
			return fmt.Errorf("block %d is a %s, not a %s", n, block.Type, kinds[0])
		}
	}
	if n == 0 {
		return fmt.Errorf("holds no %s in PEM", kinds[0])
	}
	return nil
}

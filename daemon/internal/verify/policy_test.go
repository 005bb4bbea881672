package verify_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

func TestMostSpecificPolicyWins(t *testing.T) {
	var list []verify.Policy
	for _, p := range []string{"*", "reg.example.com", "reg.example.com/team/*", "reg.example.com/team/app", "docker.io/library/*", "reg.example.com:5000"} {
		list = append(list, verify.Policy{Pattern: p})
	}
	for i := range list { // whatever the order
		policies := verify.NewPolicies(append(list[i:len(list):len(list)], list[:i]...))
		for repo, want := range map[string]string{
			"reg.example.com/team/app":        "reg.example.com/team/app",
			"reg.example.com/team/app2":       "reg.example.com/team/*",
			"reg.example.com/team/app/more":   "reg.example.com/team/*",
			"reg.example.com/team":            "reg.example.com",
			"reg.example.com/teams/app":       "reg.example.com",
			"reg.example.com:5000/team/app":   "reg.example.com:5000",
			"reg.example.com:50000/a":         "*",
			"reg.example.com.evil.org/team/a": "*",
			"docker.io/library/alpine":        "docker.io/library/*",
			"docker.io/evil/alpine":           "*",
		} {
			if got, ok := policies.For(repo); !ok || got.Pattern != want {
				t.Errorf("%s: %q %v, want %q", repo, got.Pattern, ok, want)
			}
		}
	}
	if _, ok := (verify.Policies{}).For("a.b/c"); ok {
		t.Error("no policies, and yet one")
	}
}

func TestPatterns(t *testing.T) {
	for _, good := range []string{"*", "docker.io", "docker.io/*", "localhost/a", "localhost:5000", "reg.example.com:5000/a-b/c_d/e.f/*", "[::1]:5000/a"} {
		if err := verify.CheckPattern(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "alpine", "library/alpine", "reg.example.com/", "reg.example.com/a*", "reg.example.com/*/a", "*.example.com", "Reg.example.com/a", "reg.example.com/A", "reg.example.com/a:1", "reg.example.com/a@sha256:00", "https://reg.example.com/a"} {
		if verify.CheckPattern(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestNarrowPolicyIsNeverShadowed: a policy for exactly one repository decides about
// it, whatever else there is.
func TestNarrowPolicyIsNeverShadowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.SampledFrom([]string{"a", "b", "ab"})
		repo := "r.io"
		for range rapid.IntRange(1, 3).Draw(t, "depth") {
			repo += "/" + part.Draw(t, "part")
		}
		list := []verify.Policy{{Pattern: repo, Rule: verify.Cosign}}
		for range rapid.IntRange(0, 6).Draw(t, "others") {
			p := "r.io"
			for range rapid.IntRange(0, 3).Draw(t, "depth") {
				p += "/" + part.Draw(t, "part")
			}
			if p == repo || rapid.Bool().Draw(t, "all below") {
				p += "/*"
			}
			list = append(list, verify.Policy{Pattern: p, Rule: verify.Any})
		}
		if got, _ := verify.NewPolicies(rapid.Permutation(list).Draw(t, "order")).For(repo); got.Rule != verify.Cosign {
			t.Fatalf("%s: %q of %v", repo, got.Pattern, list)
		}
	})
}

func FuzzCheckPattern(f *testing.F) {
	f.Add("reg.example.com/team/*")
	f.Fuzz(func(t *testing.T, s string) {
		if verify.CheckPattern(s) == nil {
			verify.NewPolicies([]verify.Policy{{Pattern: s}}).For("reg.example.com/team/a")
		}
	})
}

func expect(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && (!errors.Is(err, runtime.ErrUntrusted) || !strings.Contains(err.Error(), want)):
		t.Errorf("%v, want a refusal for %q", err, want)
	}
}

func TestOtherRules(t *testing.T) {
	ctx := t.Context()
	img := verify.Image{Repository: "reg.example.com/a", Descriptor: verify.Descriptor{Digest: "sha256:1"}}
	expect(t, verify.New(verify.Options{}).Check(ctx, img, nil), "") // no policies at all
	with := func(p ...verify.Policy) *verify.Gate {
		return verify.New(verify.Options{Policies: verify.NewPolicies(p)})
	}
	expect(t, with(verify.Policy{Pattern: "*", Rule: verify.Any}).Check(ctx, img, nil), "")
	expect(t, with(verify.Policy{Pattern: "reg.example.com/b", Rule: verify.Any}).Check(ctx, img, nil), "no policy")
	expect(t, with(verify.Policy{Pattern: "*", Rule: "none"}).Check(ctx, img, nil), "unknown rule")
	digest := with(verify.Policy{Pattern: "*", Rule: verify.Any}, verify.Policy{Pattern: "reg.example.com", Rule: verify.Digest})
	expect(t, digest.Check(ctx, img, nil), "wants a reference with a digest")
	img.Pinned = true
	expect(t, digest.Check(ctx, img, nil), "")
}

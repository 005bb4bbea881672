package verify_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

func TestIdentities(t *testing.T) {
	issuer, subject, err := verify.ParseIdentity("issuer=https://token.example.com, subject=https://build.example.com/team/*@refs/tags/v*")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"https://build.example.com/team/app@refs/tags/v1":                  true,
		"https://build.example.com/team/app@refs/heads/main":               false,
		"https://buildXexample.com/team/app@refs/tags/v1":                  false,
		"https://evil.org/https://build.example.com/team/app@refs/tags/v1": false,
		"https://build.example.com/team/app@refs/tags/v1\nx":               false,
		"https://build.example.com/team/a b@refs/tags/v1":                  false,
	} {
		if regexp.MustCompile(subject).MatchString(text) != want {
			t.Errorf("%q: not %v", text, want)
		}
	}
	if !regexp.MustCompile(issuer).MatchString("https://token.example.com") || regexp.MustCompile(issuer).MatchString("https://token.example.com.evil.org") {
		t.Errorf("issuer %s", issuer)
	}
	for text, want := range map[string]string{
		"":                            "is not like",
		"subject=a":                   "is not like",
		"issuer=a,subject=b":          "is not like",
		"C=DE, O=Example":             "is not like",
		"issuer=, subject=b":          "everybody",
		"issuer=a, subject=":          "everybody",
		"issuer=a, subject=*":         "everybody",
		"issuer=**, subject=a@b.test": "everybody",
	} {
		if _, _, err := verify.ParseIdentity(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

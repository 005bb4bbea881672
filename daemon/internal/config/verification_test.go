package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

func TestImageVerification(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := file("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	key := file("key.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
	empty := file("empty.pem", "nothing\n")
	root := file("trusted_root.json", "{\"mediaType\":\"application/vnd.dev.sigstore.trustedroot+json;version=0.1\"}\n")
	half := file("half.json", "{\"mediaType\":\n")
	policy := func(format string, args ...any) string {
		return minimal + "\n[[image_verification.policy]]\nimages = [\"*\"]\nrequire = \"any\"\n\n[[image_verification.policy]]\n" + fmt.Sprintf(format, args...)
	}

	c, err := config.Parse([]byte(policy("images = ['reg.example.com', 'docker.io/library/*']\nrequire = 'notation'\ntrust = ['file://%s']\nidentities = ['C=DE, ST=BY, O=Test']\n", cert)), "machine")
	if err != nil {
		t.Fatal(err)
	}
	got, ok := c.Verification.ImagePolicies().For("docker.io/library/alpine")
	if !ok || got.Rule != verify.Notation || len(got.Trust) != 1 || got.Trust[0] != cert || len(got.Identities) != 1 {
		t.Errorf("policy %+v", got)
	}
	if got, _ := c.Verification.ImagePolicies().For("docker.io/other/alpine"); got.Rule != verify.Any {
		t.Errorf("policy %+v", got)
	}

	c, err = config.Parse([]byte(policy("images = ['a.b']\nrequire = 'cosign'\ntrust = ['%s', '%s']\nidentities = ['issuer=https://c.d, subject=*@c.d']\n", root, key)), "machine")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := c.Verification.ImagePolicies().For("a.b/c"); len(got.Trust) != 2 || len(got.Identities) != 1 {
		t.Errorf("policy %+v", got)
	}

	line := strings.Count(minimal, "\n") + 7 // the second policy's first key
	for name, tc := range map[string]struct {
		text string
		key  string
		line int
		want string
	}{
		"no images":           {"require = 'any'\n", "images", line - 1, "missing"},
		"no registry":         {"images = ['alpine']\nrequire = 'any'\n", "images", line, "does not begin with a registry"},
		"twice":               {"images = ['*']\nrequire = 'any'\n", "images", line, "too"},
		"no rule":             {"images = ['a.b']\n", "require", line - 1, "must be"},
		"wrong rule":          {"images = ['a.b']\nrequire = 'none'\n", "require", line + 1, "must be"},
		"no trust":            {"images = ['a.b']\nrequire = 'cosign'\n", "trust", line - 1, "nobody is trusted"},
		"key for notation":    {"images = ['a.b']\nrequire = 'notation'\ntrust = ['" + key + "']\n", "trust", line + 2, "is a PUBLIC KEY, not a CERTIFICATE"},
		"certificate for key": {"images = ['a.b']\nrequire = 'cosign'\ntrust = ['" + cert + "']\n", "trust", line + 2, "is a CERTIFICATE, not a PUBLIC KEY"},
		"nothing in it":       {"images = ['a.b']\nrequire = 'cosign'\ntrust = ['" + empty + "']\n", "trust", line + 2, "holds no PUBLIC KEY"},
		"file is not there":   {"images = ['a.b']\nrequire = 'cosign'\ntrust = ['" + dir + "/gone']\n", "trust", line + 2, "no such file"},
		"trust without use":   {"images = ['a.b']\nrequire = 'digest'\ntrust = ['" + key + "']\n", "trust", line + 2, "has no use"},
		"root for notation":   {"images = ['a.b']\nrequire = 'notation'\ntrust = ['" + root + "']\n", "trust", line + 2, "holds no CERTIFICATE"},
		"half a root":         {"images = ['a.b']\nrequire = 'cosign'\ntrust = ['" + half + "']\nidentities = ['issuer=a, subject=b']\n", "trust", line + 2, "neither PEM nor JSON"},
		"root for everybody":  {"images = ['a.b']\nrequire = 'cosign'\ntrust = ['" + root + "']\n", "identities", line - 1, "everybody"},
		"name for a root":     {"images = ['a.b']\nrequire = 'cosign'\ntrust = ['" + root + "']\nidentities = ['O=x']\n", "identities", line + 3, "is not like"},
		"identities for keys": {"images = ['a.b']\nrequire = 'cosign'\ntrust = ['" + key + "']\nidentities = ['O=x']\n", "identities", line + 3, "has no use"},
	} {
		_, err := config.Parse([]byte(policy("%s", tc.text)), "machine")
		want := fmt.Sprintf("line %d: image_verification.policy[1].%s: ", tc.line, tc.key)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q and %q", name, err, want, tc.want)
		}
	}
}

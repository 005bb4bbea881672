package local_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/agent/internal/local"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheFileIsTheDesiredSection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	f := local.New(path, slog.New(slog.DiscardHandler))
	if section, ok := f.Desired(); ok {
		t.Errorf("%s of no file", section)
	}
	for i, c := range []struct{ text, want string }{
		{`{"version":3,"deploymentConfig":{"schemaVersion":"1.1"}}`, `{"$version":3,"schemaVersion":"1.1"}`},
		{`{"Version":3,"DEPLOYMENTCONFIG":{"schemaVersion":"1.0","$version":9}}`, `{"$version":3,"schemaVersion":"1.0"}`}, // the version did not change
		{`{"deploymentConfig":{}}`, `{"$version":0}`},
	} {
		write(t, path, c.text)
		section, ok := f.Desired()
		if same, err := iothub.DiffPatch(section, []byte(c.want)); !ok || err != nil || string(same) != "{}" {
			t.Errorf("%d: %s, %v", i, section, err)
		}
	}
}

func TestABadFileLeavesTheLastGoodOneInForce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	var said bytes.Buffer
	f := local.New(path, slog.New(slog.NewTextHandler(&said, nil)))
	good := func(version int) string {
		return fmt.Sprintf(`{"version":%d,"deploymentConfig":{"schemaVersion":"1.1"}}`, version)
	}
	write(t, path, good(1))
	want, _ := f.Desired()
	for what, spoil := range map[string]func() error{
		"deploymentConfig is missing":   func() error { return os.WriteFile(path, []byte(`{"version":2}`), 0o600) },
		"not JSON of the expected form": func() error { return os.WriteFile(path, []byte(good(2)[:20]), 0o600) },
		"cannot unmarshal":              func() error { return os.WriteFile(path, []byte(`{"version":"2","deploymentConfig":{}}`), 0o600) },
		"no such file":                  func() error { return os.Remove(path) },
		"longer than":                   func() error { return os.WriteFile(path, bytes.Repeat([]byte(" "), 5<<20), 0o600) },
	} {
		said.Reset()
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if section, ok := f.Desired(); !ok || !bytes.Equal(section, want) {
				t.Errorf("%s: %s", what, section)
			}
		}
		if got := said.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, what) {
			t.Errorf("%s: said %s", what, got)
		}
		write(t, path, good(1)) // what is good again is not news, what is bad again is
		f.Desired()
	}
	write(t, path, good(7))
	if section, _ := f.Desired(); !strings.Contains(string(section), `"$version":7`) {
		t.Errorf("%s", section)
	}
}

// Whatever is in the file: it is a section of the version that it says, or an error.
func FuzzDeployment(f *testing.F) {
	const good = `{"version":1,"deploymentConfig":{"schemaVersion":"1.1"}}`
	for _, text := range []string{
		good, `{"deploymentConfig":{"$version":"x","modules":{"a":{}}},"version":-9223372036854775808}`, `{"version":1e3,"deploymentConfig":{}}`,
		`{"version":1,"deploymentConfig": {"a":1,"a":2},"DeploymentConfig":null}`, "\ufeff" + good, good + good, `[]`, `null`, ``, `{"deploymentConfig":"{}"}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		section, err := local.Deployment(text)
		if err != nil {
			return
		}
		var said struct{ Version int64 }
		if err := json.Unmarshal(text, &said); err != nil {
			t.Fatalf("%q is taken: %v", text, err)
		}
		if v, ok := iothub.Version(section); !ok || v != said.Version {
			t.Fatalf("%q becomes %s", text, section)
		}
	})
}

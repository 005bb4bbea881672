package legacy_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/config/legacy"
)

var update = flag.Bool("update", false, "write golden files")

func TestOldFilesBecomeNewOnes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			doc, notes, err := legacy.Convert(text)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			for _, n := range notes {
				out.WriteString("# note: " + n + "\n")
			}
			if err := toml.NewEncoder(&out).Encode(doc); err != nil {
				t.Fatal(err)
			}
			if _, err := config.Parse(out.Bytes(), "gw"); err != nil {
				t.Errorf("the daemon refuses it: %v", err)
			}
			path := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("got\n%s\nwant\n%s", &out, want)
			}
		})
	}
}

func TestWhatCannotBeConverted(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"external":       {"provisioning:\n  source: external\n  endpoint: http://localhost:9999\n", "endpoint"},
		"other source":   {"provisioning:\n  source: cloud\n", `"cloud" is not supported`},
		"nothing":        {"", `"" is not supported`},
		"unknown key":    {"provisioning:\n  source: manual\nhostnme: x\n", "hostnme"},
		"not YAML":       {"\t{", "not a config.yaml"},
		"something else": {"- a\n- b\n", "not a config.yaml"},
		"too long":       {strings.Repeat("#", 1<<20+1), "larger than 1 MiB"},
	} {
		if _, _, err := legacy.Convert([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzConvert(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, _, err := legacy.Convert(text)
		if err != nil {
			return
		}
		if _, ok := doc["provisioning"].(map[string]any); !ok {
			t.Error("no provisioning")
		}
	})
}

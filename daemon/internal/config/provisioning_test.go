package config_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

var update = flag.Bool("update", false, "write golden files")

func TestEveryFormOfProvisioning(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) < 9 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			c, err := config.Parse(text, "gateway")
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			for _, v := range []any{c.Reprovisioning, c.Provisioning, c.Device, c.Identity, c.EdgeCA, c.Issuance, c.Keys, c.TPM} {
				fmt.Fprintf(&out, "%T %+v\n", v, v)
			}
			golden := strings.TrimSuffix(name, ".toml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(out.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || string(want) != out.String() {
				t.Errorf("got\n%swant\n%s%v", out.String(), want, err)
			}
			for _, s := range []string{secret, "1234?", "pin-value", "estpwd", "hello", "world"} {
				if strings.Contains(out.String(), s) {
					t.Errorf("%q is printed", s)
				}
			}
		})
	}
}

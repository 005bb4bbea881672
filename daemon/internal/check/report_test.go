package check_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/check"
	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

var update = flag.Bool("update", false, "write golden files")

// mixed has every result.
func mixed() check.Options {
	o := healthy()
	o.Hostname = func() (string, error) { return "gwx", nil }
	o.HostConnect = func(context.Context, config.Config, string, int) error { return errors.New("first\nsecond") }
	o.ModuleConnect = func(context.Context, config.Config, string, int) error { return check.ErrNoModule }
	o.DontRun = []string{"cni-plugins"}
	return o
}

func TestReports(t *testing.T) {
	for name, c := range map[string]struct {
		verbose, strict bool
		errors          int
	}{
		"text": {false, false, 4}, "text_verbose": {true, false, 4}, "text_strict": {false, true, 5},
	} {
		var out bytes.Buffer
		text := check.Text{Out: &out, Verbose: c.verbose, Tally: check.Tally{WarningsAreErrors: c.strict}}
		if err := errors.Join(check.Run(t.Context(), mixed(), text.Add), text.End()); err != nil {
			t.Fatal(err)
		}
		if text.Errors != c.errors {
			t.Errorf("%s: %d errors", name, text.Errors)
		}
		golden(t, name, out.Bytes())
	}
	var out bytes.Buffer
	doc := check.Document{Additional: map[string]any{"now": "x"}}
	if err := errors.Join(check.Run(t.Context(), mixed(), doc.Add), doc.Write(&out)); err != nil {
		t.Fatal(err)
	}
	if doc.Errors != 4 || doc.Warnings != 1 || doc.NotTaken != 10 {
		t.Errorf("%+v", doc.Tally)
	}
	golden(t, "json", out.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

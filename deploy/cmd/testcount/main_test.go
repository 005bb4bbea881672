package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTestsAreCountedAndFailuresShown(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":             "module example.test\n\ngo 1.24\n",
		"good/a_test.go":     "package good\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) { t.Run(\"x\", func(*testing.T) {}); t.Log(\"quiet\") }\n\nfunc TestB(*testing.T) {}\n\nfunc TestC(t *testing.T) { t.Skip(\"not here\") }\n",
		"bad/a_test.go":      "package bad\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) { t.Run(\"x\", func(t *testing.T) { t.Error(\"loud\") }) }\n\nfunc TestB(*testing.T) {}\n",
		"broken/a_test.go":   "package broken\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) { nonsense() }\n",
		"panic/a_test.go":    "package panic\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestMain(*testing.M) { os.Exit(3) }\n",
		"empty/no_test_here": "",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "")
	for _, c := range []struct {
		args string
		code int
		sum  string
		want []string
	}{
		{"./good", 0, "2 passed, 0 failed", []string{"ok    example.test/good"}},
		{"./good ./bad", 1, "3 passed, 1 failed", []string{"loud", "FAIL  example.test/bad", "ok    example.test/good"}},
		{"./broken", 1, "0 passed, 1 failed", []string{"undefined: nonsense", "FAIL  example.test/broken"}},
		{"./panic", 1, "0 passed, 1 failed", []string{"FAIL  example.test/panic"}},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), strings.Fields(c.args), &out, &errs)
		if code != c.code || !strings.HasSuffix(out.String(), c.sum+"\n") || strings.Contains(out.String(), "quiet") {
			t.Errorf("%s: status %d:\n%s%s", c.args, code, &out, &errs)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in\n%s", c.args, want, &out)
			}
		}
	}
}

func TestWhatIsNoEventIsAnError(t *testing.T) {
	if _, err := count(strings.NewReader("nonsense"), &bytes.Buffer{}); err == nil {
		t.Error("nonsense is counted")
	}
}

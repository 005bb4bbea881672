package main_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/modlog"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// maxRSS is what a log writer may take, in KiB. It is measured at about 2.7 MB; edged
// as its own log writer took 20.
const maxRSS = 6 << 10

func TestWritesUntilTheStreamsEnd(t *testing.T) {
	program := filepath.Join(t.TempDir(), "edged-log")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command(program).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("no use by hand")) {
		t.Errorf("by hand: %v %s", err, out)
	}
	dir := filepath.Join(t.TempDir(), "logs")
	stdout, stderr, ready := pipe(t), pipe(t), pipe(t)
	cmd := exec.Command(program, modlog.WriterCommand, modlog.Default.Encode(dir))
	cmd.ExtraFiles = []*os.File{stdout.r, stderr.r, ready.w} // 3, 4 and 5, as the shim has them
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range cmd.ExtraFiles {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadAll(ready.r); err != nil {
		t.Fatal(err)
	}
	const lines = 20_000
	for i := range lines {
		if _, err := fmt.Fprintf(stdout.w, "line %d of something that a module may say\n", i); err != nil {
			t.Fatal(err)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	if kib, err := strconv.Atoi(string(m[1])); err != nil || kib > maxRSS {
		t.Errorf("%d KiB (%v), want at most %d", kib, err, maxRSS)
	}
	if err := stdout.w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stderr.w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	close(done)
	n := 0
	for e, err := range modlog.Read(t.Context(), dir, runtime.LogOptions{}, done) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("line %d of something that a module may say\n", n); string(e.Line) != want {
			t.Fatalf("%q, want %q", e.Line, want)
		}
		n++
	}
	if n != lines {
		t.Errorf("%d lines, want %d", n, lines)
	}
}

type pipeEnds struct{ r, w *os.File }

func pipe(t *testing.T) pipeEnds {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return pipeEnds{r, w}
}

// Command testcount runs go test with its arguments, shows packages and what has
// failed, and ends with how many tests have passed and failed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns go test's exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	events, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(stderr, "testcount:", err)
		return 1
	}
	sum, err := count(events, stdout)
	if _, drained := io.Copy(io.Discard, events); err == nil {
		err = drained
	}
	ended := cmd.Wait()
	fmt.Fprintln(stdout, sum)
	var exit *exec.ExitError
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "testcount:", err)
		return 1
	case errors.As(ended, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	case ended != nil || sum.Failed > 0:
		return 1
	}
	return 0
}

// event is a line of go test -json; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64 // seconds
}

// tally counts tests, not their parts. A package that cannot be built, or fails
// outside of its tests, counts as one that has failed.
type tally struct{ Passed, Failed int }

// String is "3 passed, 1 failed".
func (t tally) String() string { return fmt.Sprintf("%d passed, %d failed", t.Passed, t.Failed) }

// count reads events and shows what is worth it.
func count(events io.Reader, out io.Writer) (sum tally, err error) {
	// Output is kept until it is known whether its test has failed.
	kept := map[[2]string]*strings.Builder{}
	failedIn := map[string]bool{} // packages with failed tests
	dec := json.NewDecoder(bufio.NewReader(events))
	for {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return sum, nil
		} else if err != nil {
			return sum, fmt.Errorf("output of go test: %w", err)
		}
		top, _, part := strings.Cut(e.Test, "/")
		key := [2]string{e.Package, top}
		switch e.Action {
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "output":
			if kept[key] == nil {
				kept[key] = &strings.Builder{}
			}
			kept[key].WriteString(e.Output)
		case "pass", "fail", "skip":
			if part {
				continue
			}
			text := kept[key]
			delete(kept, key)
			failed := e.Action == "fail"
			if failed && text != nil {
				fmt.Fprint(out, text)
			}
			switch {
			case top != "" && failed:
				sum.Failed++
				failedIn[e.Package] = true
			case top != "" && e.Action == "pass":
				sum.Passed++
			case top == "" && failed:
				if !failedIn[e.Package] {
					sum.Failed++
				}
				fmt.Fprintf(out, "FAIL  %s  %.1fs\n", e.Package, e.Elapsed)
			case top == "" && e.Action == "pass":
				fmt.Fprintf(out, "ok    %s  %.1fs\n", e.Package, e.Elapsed)
			}
		}
	}
}

package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "edged-init-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "edged-init")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// command runs the program as an ordinary process, or as the first one of a process
// namespace, which needs root.
func command(first bool, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	if first {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}
	return cmd
}

// modes runs a test in both.
func modes(t *testing.T, f func(t *testing.T, first bool)) {
	t.Helper()
	t.Run("ordinary", func(t *testing.T) { f(t, false) })
	t.Run("first", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root")
		}
		f(t, true)
	})
}

func TestExitCodes(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("\x7fELF and no more"), 0o755); err != nil {
		t.Fatal(err)
	}
	modes(t, func(t *testing.T, first bool) {
		for name, tc := range map[string]struct {
			args []string
			code int
			says string
		}{
			"good":           {[]string{"true"}, 0, ""},
			"bad":            {[]string{"sh", "-c", "exit 7"}, 7, ""},
			"killed":         {[]string{"sh", "-c", "kill -KILL $$"}, 137, ""},
			"terminated":     {[]string{"sh", "-c", "kill -TERM $$"}, 143, ""},
			"not there":      {[]string{"no-such-program"}, 127, "no-such-program"},
			"no such path":   {[]string{"/no/such/program"}, 127, "/no/such/program"},
			"not executable": {[]string{plain}, 126, plain},
			"no program":     {[]string{broken}, 126, broken},
			"nothing":        {nil, 2, "no use by hand"},
		} {
			out, err := command(first, tc.args...).CombinedOutput()
			code := 0
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				code = exit.ExitCode()
			}
			if code != tc.code || !strings.Contains(string(out), tc.says) || tc.says == "" && len(out) > 0 {
				t.Errorf("%s: code %d, %q", name, code, out)
			}
		}
	})
}

// begin starts the command and waits for its first line.
func begin(t *testing.T, cmd *exec.Cmd) (line string, rest io.Reader) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	r := bufio.NewReader(out)
	if line, err = r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line), r
}

func TestSignalsAreHandedOn(t *testing.T) {
	modes(t, func(t *testing.T, first bool) {
		for name, sig := range map[string]syscall.Signal{"TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1, "HUP": syscall.SIGHUP, "WINCH": syscall.SIGWINCH} {
			cmd := command(first, "sh", "-c", "trap 'exit 9' "+name+"; echo up; while :; do sleep 0.05; done")
			begin(t, cmd)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// children returns the states of the processes below pid.
func children(t *testing.T, pid int) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var states bytes.Buffer
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if f[1] == fmt.Sprint(pid) {
			states.WriteString(f[0])
		}
	}
	return states.String()
}

func TestOrphansAreReaped(t *testing.T) {
	modes(t, func(t *testing.T, first bool) {
		cmd := command(first, "sh", "-c", `for i in 1 2 3 4 5; do (sleep 0.2 & ); done; echo up; exec sleep 60`)
		begin(t, cmd)
		states := ""
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if states = children(t, cmd.Process.Pid); states == "S" {
				break
			}
		}
		if states != "S" {
			t.Errorf("processes %q below, want only the command", states)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 143 {
			t.Error(err)
		}
	})
}

func TestTheRestEndsWithTheCommand(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cmd := command(true, "sh", "-c", "(sleep 300 &); echo up; exit 3")
	_, rest := begin(t, cmd)
	if _, err := io.ReadAll(rest); err != nil { // ends when nobody has the stream any more
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Error(err)
	}
}

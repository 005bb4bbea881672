//go:build integration

package containerd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// shimOf returns the process that looks after a module's first process.
func shimOf(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	shim, err := strconv.Atoi(strings.Fields(rest)[1])
	if err != nil {
		t.Fatal(err)
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", shim))
	if err != nil || !strings.HasPrefix(string(name), "containerd-shim") {
		t.Fatalf("the parent of process %d is %d, %q, %v", pid, shim, name, err)
	}
	return shim
}

func pidOf(t *testing.T, r *containerd.Runtime, name string) int {
	t.Helper()
	st, err := r.Get(t.Context(), name)
	if err != nil || st.Pid == 0 {
		t.Fatalf("%s is %+v, %v", name, st, err)
	}
	return st.Pid
}

// A module ends while no daemon is there, and the next one comes before the shim, on a
// busy machine, has told of it: it calls running what is gone, or does not answer.
func TestAnEndJustBeforeTheTakeoverKeepsItsCode(t *testing.T) {
	for _, busy := range []time.Duration{700 * time.Millisecond, 3 * time.Second} {
		t.Run(busy.String(), func(t *testing.T) {
			dir := home(t)
			first := open(t, dir)
			create(t, first, "mortal", `{"Cmd":["watch=/mnt/go~touched","exit=7"],"HostConfig":{"Binds":["`+dir+`/shared:/mnt"]}}`)
			start(t, first, "mortal")
			pid := pidOf(t, first, "mortal")
			shim := shimOf(t, pid)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "shared/go"), []byte("touched"), 0o644); err != nil {
				t.Fatal(err)
			}
			waitGone(t, pid)
			time.AfterFunc(busy, func() { _ = syscall.Kill(shim, syscall.SIGCONT) }) // or the takeover fails
			second := open(t, dir)
			defer closeAll(t, second)
			got, err := second.Get(t.Context(), "mortal")
			if err != nil || got.Status != runtime.StatusExited || got.ExitCode != 7 || got.Exited.Before(begin) || got.Exited.After(time.Now()) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// awaitExit returns the next end of a module.
func awaitExit(t *testing.T, events <-chan runtime.Event, name string) runtime.Event {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatal("events ended")
			}
			if e.Type == runtime.EventExited && e.Module == name {
				return e
			}
		case <-timeout:
			t.Fatalf("the end of %s was not told", name)
		}
	}
}

const crashing = `{"Cmd":["touch=/data/kept","listen=80","say=up","exit=-1"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"18085"}]}}}`

func TestModuleComesBackAfterItsShimWasKilled(t *testing.T) {
	r := engine(t)
	create(t, r, "orphan", crashing)
	for round := range 3 {
		start(t, r, "orphan")
		pid := pidOf(t, r, "orphan")
		events := r.Events(t.Context())
		if err := syscall.Kill(shimOf(t, pid), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := awaitExit(t, events, "orphan"); e.ExitCode == 0 {
			t.Errorf("round %d: event %+v", round, e)
		}
		waitGone(t, pid)
		if st, err := r.Get(t.Context(), "orphan"); err != nil || st.Status != runtime.StatusExited || st.ExitCode == 0 {
			t.Errorf("round %d: %+v, %v", round, st, err)
		}
	}
	start(t, r, "orphan")
	if got := answer(t, "127.0.0.1:18085"); got != "hello from orphan\n" {
		t.Errorf("answer %q", got)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/data/kept", pidOf(t, r, "orphan"))); err != nil {
		t.Errorf("the module's writable layer: %v", err)
	}
}

// freeze stops the first process that appears with such arguments, as if the machine
// were too busy to run it, and tells its number.
func freeze(meant func(args []string) bool) <-chan int {
	found := make(chan int, 1)
	go func() {
		defer close(found)
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			names, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
			for _, file := range names {
				data, err := os.ReadFile(file)
				if err != nil || !meant(strings.Split(strings.Trim(string(data), "\x00"), "\x00")) {
					continue
				}
				if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && syscall.Kill(pid, syscall.SIGSTOP) == nil {
					found <- pid
					return
				}
			}
		}
	}()
	return found
}

func TestModuleComesBackAfterContainerdCouldNotCleanUp(t *testing.T) {
	r := engine(t)
	create(t, r, "stale", crashing)
	start(t, r, "stale")
	pid := pidOf(t, r, "stale")
	bundle, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", shimOf(t, pid)))
	if err != nil {
		t.Fatal(err)
	}
	events := r.Events(t.Context())
	frozen := freeze(func(args []string) bool {
		return strings.Contains(args[0], "containerd-shim") && args[len(args)-1] == "delete" && slices.Contains(args, "stale")
	})
	if err := syscall.Kill(shimOf(t, pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-frozen; !ok {
		t.Fatal("containerd did not clean up at all")
	}
	awaitExit(t, events, "stale")
	waitGone(t, pid) // whoever ends it: two of a module would share its files
	if _, err := os.Stat(bundle); err != nil {
		t.Fatalf("the bundle is not in the way: %v", err)
	}
	start(t, r, "stale")
	if got := answer(t, "127.0.0.1:18085"); got != "hello from stale\n" {
		t.Errorf("answer %q", got)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/data/kept", pidOf(t, r, "stale"))); err != nil {
		t.Errorf("the module's writable layer: %v", err)
	}
}

// answer dials until it is answered.
func answer(t *testing.T, addr string) string {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got, err := dial(addr)
		if err == nil && got != "" {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %q, %v", addr, got, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

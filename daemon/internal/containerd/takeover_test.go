package containerd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
)

// fakeTask is a task whose shim says what the test wants.
type fakeTask struct {
	client.Task
	pid    int
	status func() (client.Status, error)
	wait   func(ctx context.Context) client.ExitStatus
}

func (f fakeTask) Pid() uint32 { return uint32(f.pid) }

func (f fakeTask) Status(context.Context) (client.Status, error) { return f.status() }

func (f fakeTask) Wait(ctx context.Context) (<-chan client.ExitStatus, error) {
	exit := make(chan client.ExitStatus, 1)
	go func() { exit <- f.wait(ctx) }()
	return exit, nil
}

const noPid = 1 << 30 // above what the kernel gives

func TestTheEndThatTheShimHasNotToldYetIsWaitedFor(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tells := func(after time.Duration, told client.ExitStatus) func(context.Context) client.ExitStatus {
		return func(ctx context.Context) client.ExitStatus {
			select {
			case <-time.After(after):
				return told
			case <-ctx.Done():
				return *client.NewExitStatus(client.UnknownExitStatus, time.Time{}, ctx.Err())
			}
		}
	}
	gone := *client.NewExitStatus(client.UnknownExitStatus, time.Time{}, status.Error(codes.NotFound, "no such task"))
	for name, tc := range map[string]struct {
		pid  int
		wait func(context.Context) client.ExitStatus
		want client.Status
		ok   bool
	}{
		"its process lives":    {os.Getpid(), nil, client.Status{}, false},
		"told soon":            {noPid, tells(3*time.Second, *client.NewExitStatus(7, at, nil)), client.Status{Status: client.Stopped, ExitStatus: 7, ExitTime: at}, true},
		"never told":           {noPid, tells(time.Hour, *client.NewExitStatus(7, at, nil)), client.Status{}, false},
		"gone with its code":   {noPid, tells(time.Second, gone), client.Status{}, true},
		"the engine goes away": {noPid, tells(time.Second, *client.NewExitStatus(255, at, errors.New("closed"))), client.Status{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, ok := containerd.AwaitDead(t.Context(), fakeTask{pid: tc.pid, wait: tc.wait})
				if got != tc.want || ok != tc.ok {
					t.Errorf("%+v, %t", got, ok)
				}
			})
		})
	}
}

func TestAShimThatCannotTellIsAskedAgain(t *testing.T) {
	type answer struct {
		status client.Status
		err    error
	}
	running := answer{client.Status{Status: client.Running}, nil}
	unknown := answer{client.Status{Status: client.Unknown}, nil}
	late := answer{client.Status{}, context.DeadlineExceeded}
	away := answer{client.Status{}, errdefs.ErrUnavailable}
	gone := answer{client.Status{}, errdefs.ErrNotFound}
	for name, tc := range map[string]struct {
		answers []answer // the last one for ever
		want    answer
		asked   int
	}{
		"at once":            {[]answer{running}, running, 1},
		"after a while":      {[]answer{unknown, late, away, running}, running, 4},
		"gone meanwhile":     {[]answer{unknown, gone}, gone, 2},
		"unknown for ever":   {[]answer{unknown}, unknown, 0},
		"other errors count": {[]answer{{client.Status{}, errdefs.ErrInternal}}, answer{client.Status{}, errdefs.ErrInternal}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, begin := 0, time.Now()
				task := fakeTask{status: func() (client.Status, error) {
					a := tc.answers[min(asked, len(tc.answers)-1)]
					asked++
					return a.status, a.err
				}}
				_, got, err := containerd.KnownTask(t.Context(), func(context.Context) (client.Task, error) { return task, nil })
				if got != tc.want.status || !errors.Is(err, tc.want.err) {
					t.Errorf("%+v, %v", got, err)
				}
				if tc.asked > 0 && asked != tc.asked || time.Since(begin) > containerd.TakeoverTimeout {
					t.Errorf("asked %d times in %v", asked, time.Since(begin))
				}
			})
		})
	}
}

func TestOnlyTheModulesOwnBundleIsInItsWay(t *testing.T) {
	const dir = "/run/containerd/io.containerd.runtime.v2.task/breakwater/"
	for text, want := range map[string]string{
		"failed to start shim: mkdir " + dir + "m: file exists: unknown":            dir + "m",
		"mkdir " + dir + "m: file exists":                                           dir + "m",
		"mkdir " + dir + "other: file exists":                                       "",
		"mkdir " + dir + "x/../m: file exists":                                      "",
		"mkdir /run/containerd/io.containerd.runtime.v2.task/k8s.io/m: file exists": "",
		"mkdir /home/breakwater/m: file exists":                                     "",
		"mkdir " + dir + "m: no space left on device":                               "",
	} {
		if got := containerd.StaleBundle(errors.New(text), "breakwater", "m"); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
	if got := containerd.StaleBundle(nil, "breakwater", "m"); got != "" {
		t.Errorf("%q without an error", got)
	}
}

func TestABundleIsRemovedButNotWhatIsMountedInIt(t *testing.T) {
	dir := t.TempDir()
	bundle, work := filepath.Join(dir, "state/m"), filepath.Join(dir, "root/m")
	fill := func() {
		for _, d := range []string{bundle + "/rootfs", work} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.Symlink(work, bundle+"/work"), os.WriteFile(bundle+"/config.json", nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	if err := containerd.RemoveBundle(bundle); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(dir + "/*/*m*")
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// A root file system that cannot be taken away has the module's files.
	fill()
	kept := bundle + "/rootfs/kept"
	if err := os.WriteFile(kept, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := containerd.RemoveBundle(bundle); err == nil {
		t.Error("a full root file system is no error")
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

func TestGroupsAreMatchedWhole(t *testing.T) {
	for text, want := range map[string]bool{
		"0::/ns/hub\n":             true,
		"0::/ns/hub/sub\n":         true,
		"5:memory:/ns/hub\n0::/\n": true,
		"0::/ns/hub2\n":            false,
		"0::/outer/ns/hub\n":       false,
		"0::/\n":                   false,
	} {
		if got := containerd.ParseCgroups(text).At("/ns/hub"); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

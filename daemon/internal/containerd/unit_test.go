package containerd_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

func TestReferencesAreCompleted(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"busybox":                   "docker.io/library/busybox:latest",
		"me/mod:1":                  "docker.io/me/mod:1",
		" mcr.microsoft.com/a/b:1 ": "mcr.microsoft.com/a/b:1",
		"localhost:5000/x":          "localhost:5000/x:latest",
		"r.test/x" + digest:         "r.test/x" + digest,
		"r.test/x:1" + digest:       "r.test/x" + digest,
	} {
		got, err := containerd.ParseRef(in)
		if err != nil || got.String() != want {
			t.Errorf("%q: %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "UPPER", "a b", "r.test/x@sha256:short", "$upstream:443/x"} {
		if _, err := containerd.ParseRef(in); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestRegistryAddressesAreCompared(t *testing.T) {
	for in, want := range map[string]string{
		"https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io", "docker.io": "docker.io",
		"My.azurecr.io": "my.azurecr.io", "http://localhost:5000/v2/": "localhost:5000",
	} {
		if got := containerd.RegistryHost(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestPullFailuresAreToldApart(t *testing.T) {
	for name, tc := range map[string]struct{ err, want error }{
		"not there": {errdefs.ErrNotFound, runtime.ErrImageNotFound},
		"401":       {remoteerrors.ErrUnexpectedStatus{StatusCode: 401}, runtime.ErrUnauthorized},
		"403":       {remoteerrors.ErrUnexpectedStatus{StatusCode: 403}, runtime.ErrUnauthorized},
		"503":       {remoteerrors.ErrUnexpectedStatus{StatusCode: 503}, runtime.ErrUnavailable},
		"transport": {&url.Error{Op: "Get", URL: "x", Err: errors.New("refused")}, runtime.ErrUnavailable},
	} {
		if got := containerd.PullCause(tc.err); !errors.Is(got, tc.want) || !strings.Contains(got.Error(), tc.err.Error()) {
			t.Errorf("%s: %v", name, got)
		}
	}
	other := errors.New("disk full")
	if got := containerd.PullCause(other); got != other { //nolint:errorlint // the very same
		t.Errorf("%v", got)
	}
}

func TestProcessBelongsByEveryHierarchy(t *testing.T) {
	init := "9:name=systemd:/ns/hub\n8:pids:/ns/hub\n4:memory:/outer/ns/hub\n0::/\n"
	for name, tc := range map[string]struct {
		cgroup string
		want   bool
	}{
		"the first process":        {init, true},
		"a child group":            {"9:name=systemd:/ns/hub/x\n8:pids:/ns/hub/x/y\n4:memory:/outer/ns/hub\n0::/x\n", true},
		"another module":           {strings.ReplaceAll(init, "hub", "mod"), false},
		"a name that begins alike": {strings.ReplaceAll(init, "/hub", "/hub2"), false},
		"only one hierarchy":       {"9:name=systemd:/ns/hub\n8:pids:/\n4:memory:/outer/ns/hub\n0::/\n", false},
		"a hierarchy is missing":   {"9:name=systemd:/ns/hub\n8:pids:/ns/hub\n0::/\n", false},
		"the host":                 {"9:name=systemd:/\n8:pids:/\n4:memory:/\n0::/\n", false},
		"nothing":                  {"", false},
	} {
		if got := containerd.ParseCgroups(tc.cgroup).Within(containerd.ParseCgroups(init), "/ns/hub"); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	unified := containerd.ParseCgroups("0::/ns/hub\n")
	if !containerd.ParseCgroups("0::/ns/hub/sub\n").Within(unified, "/ns/hub") || containerd.ParseCgroups("0::/ns/other\n").Within(unified, "/ns/hub") {
		t.Error("unified hierarchy")
	}
	host := containerd.ParseCgroups("0::/\n")
	if host.Within(host, "/ns/hub") {
		t.Error("a container without a group of its own owns the host's processes")
	}
}

func TestStartTicks(t *testing.T) {
	fields := "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"
	if got, err := containerd.ParseStartTicks([]byte("42 (a) S (b) " + fields)); err != nil || got != 4711 {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := containerd.ParseStartTicks([]byte("42 (a) Z" + fields[1:])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("zombie: %v", err)
	}
	for _, bad := range []string{"", "42 a S", "42 (a) S 1 2"} {
		if _, err := containerd.ParseStartTicks([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestSlowSubscriberIsDropped(t *testing.T) {
	h := containerd.NewHub()
	slow, quick := containerd.Subscribe(h, t.Context()), containerd.Subscribe(h, t.Context())
	for range runtime.EventBacklog + 1 {
		h.Publish(runtime.Event{Module: "m"})
		<-quick
	}
	n := 0
	for range slow {
		n++
	}
	if n != runtime.EventBacklog {
		t.Errorf("%d events before the end", n)
	}
	h.Publish(runtime.Event{Module: "last"})
	if e := <-quick; e.Module != "last" {
		t.Errorf("event %+v", e)
	}
	h.Close()
	if _, ok := <-quick; ok {
		t.Error("not closed with the hub")
	}
	if _, ok := <-containerd.Subscribe(h, t.Context()); ok {
		t.Error("a closed hub gives an open channel")
	}
}

func TestOneOperationAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locks containerd.KeyedLock
		unlock, err := containerd.Lock(&locks, t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		other, err := containerd.Lock(&locks, t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		other()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() {
			_, err := containerd.Lock(&locks, ctx, "a")
			done <- err
		}()
		synctest.Wait()
		if len(done) != 0 {
			t.Fatal("two operations at once")
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		go func() {
			unlock, err := containerd.Lock(&locks, t.Context(), "a")
			if err == nil {
				unlock()
			}
			done <- err
		}()
		synctest.Wait()
		unlock()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

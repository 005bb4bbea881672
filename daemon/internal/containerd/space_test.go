//go:build integration

package containerd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// small is an engine of the test's own, whose images lie on a file system of a few MiB.
type small struct {
	*containerd.Runtime
	says    *lockedBuffer
	root    string
	address string
}

func newSmall(t *testing.T, size string) *small {
	t.Helper()
	dir := home(t)
	s := &small{root: filepath.Join(dir, "disk"), address: filepath.Join(dir, "c.sock")}
	must(t, os.Mkdir(s.root, 0o700))
	must(t, syscall.Mount("tmpfs", s.root, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { must(t, syscall.Unmount(s.root, 0)) })
	settings := filepath.Join(dir, "config.toml")
	must(t, os.WriteFile(settings, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o600))
	cmd := exec.Command("containerd", "--config", settings, "--address", s.address, "--root", filepath.Join(s.root, "containerd"), "--state", filepath.Join(dir, "state"))
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("containerd: %s", out)
		}
	})
	limit, tick := time.After(30*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		if exec.Command("ctr", "--address", s.address, "version").Run() == nil {
			break
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("containerd does not start: %s", out)
		}
	}
	s.Runtime, s.says = logged(t, func(c *containerd.Config) { c.Address = s.address })
	t.Cleanup(func() { closeAll(t, s.Runtime) })
	return s
}

func (s *small) free(t *testing.T) int64 {
	t.Helper()
	var st syscall.Statfs_t
	must(t, syscall.Statfs(s.root, &st))
	return int64(st.Bavail) * st.Frsize
}

// intact reads all content of the engine and compares it with its digests, and
// that nothing is half there.
func (s *small) intact(t *testing.T) {
	t.Helper()
	c, err := client.New(s.address, client.WithDefaultNamespace(testNamespace))
	must(t, err)
	defer c.Close()
	ctx := namespaces.WithNamespace(context.Background(), testNamespace)
	store := c.ContentStore()
	must(t, store.Walk(ctx, func(info content.Info) error {
		r, err := store.ReaderAt(ctx, descriptorOf(info))
		if err != nil {
			return err
		}
		defer r.Close()
		got, err := info.Digest.Algorithm().FromReader(content.NewReader(r))
		if err == nil && got != info.Digest {
			err = errors.New("content is not what its name says: " + info.Digest.String())
		}
		return err
	}))
	unfinished, err := store.ListStatuses(ctx)
	must(t, err)
	if len(unfinished) > 0 {
		t.Errorf("unfinished: %v", unfinished)
	}
	if l := leasesOf(t, s.address); len(l) > 0 {
		t.Errorf("leases are left: %v", l)
	}
}

// depot is a registry that calls before for each layer.
func depot(t *testing.T) (host string, before *atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]) {
	t.Helper()
	before = &atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]{}
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := before.Load(); f != nil && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && (*f)(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), before
}

func refused(t *testing.T, err error, image string, s *small) {
	t.Helper()
	var pe *runtime.PullError
	if !errors.Is(err, runtime.ErrNoSpace) || !errors.As(err, &pe) || !strings.Contains(err.Error(), image) || !strings.Contains(err.Error(), s.root) {
		t.Fatalf("%v", err)
	}
	t.Log(err)
}

func TestPullOntoAFullDisk(t *testing.T) {
	s := newSmall(t, "48m")
	host, before := depot(t)
	random := make([]byte, 24<<20)
	_, _ = rand.Read(random)

	// Another image is there and must stay.
	other := host + "/test/other:1"
	pushImage(t, other, random[:1<<20])
	kept, err := s.Pull(t.Context(), runtime.PullRequest{Image: other})
	must(t, err)
	free := s.free(t)
	unchanged := func(t *testing.T) {
		t.Helper()
		s.intact(t)
		if now := s.free(t); now < free-1<<20 {
			t.Errorf("%d bytes are free, %d before", now, free)
		}
		got, err := s.Pull(t.Context(), runtime.PullRequest{Image: other, Policy: runtime.PullNever})
		if err != nil || got.ID != kept.ID {
			t.Errorf("the other image: %v %v", got, err)
		}
	}

	// Too large by what its manifest says: no layer is asked for.
	large := host + "/test/toolarge:1"
	layer, _ := pushImage(t, large, random)
	asked := false
	count := func(_ http.ResponseWriter, r *http.Request) bool {
		asked = asked || strings.Contains(r.URL.Path, layer.Digest.String())
		return false
	}
	before.Store(&count)
	_, err = s.Pull(t.Context(), runtime.PullRequest{Image: large})
	refused(t, err, large, s)
	if asked {
		t.Error("its layer was fetched")
	}
	unchanged(t)

	// Small as it comes, and large when it is unpacked.
	flat := host + "/test/flat:1"
	pushImage(t, flat, append(bytes.Repeat([]byte("nothing "), 8<<20), random[:64]...))
	_, err = s.Pull(t.Context(), runtime.PullRequest{Image: flat})
	refused(t, err, flat, s)
	unchanged(t)

	// The room is taken by something else while it comes.
	victim := host + "/test/victim:1"
	layer, data := pushImage(t, victim, random[:8<<20])
	filler, full := filepath.Join(s.root, "filler"), make(chan struct{})
	var once sync.Once
	fill := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, layer.Digest.String()) {
			return false
		}
		_, _ = w.Write(data[:2<<20])
		_ = http.NewResponseController(w).Flush()
		once.Do(func() {
			defer close(full)
			_ = os.WriteFile(filler, make([]byte, 64<<20), 0o600) // as much as goes
		})
		_, _ = w.Write(data[2<<20:])
		return true
	}
	before.Store(&fill)
	_, err = s.Pull(t.Context(), runtime.PullRequest{Image: victim})
	refused(t, err, victim, s)
	before.Store(nil)
	<-full
	must(t, os.Remove(filler))
	unchanged(t)
	if _, err := s.Pull(t.Context(), runtime.PullRequest{Image: victim}); err != nil {
		t.Fatalf("with room: %v", err)
	}

	// With more room all of them come.
	must(t, syscall.Mount("tmpfs", s.root, "tmpfs", syscall.MS_REMOUNT, "size=400m"))
	for _, image := range []string{large, flat} {
		if _, err := s.Pull(t.Context(), runtime.PullRequest{Image: image}); err != nil {
			t.Errorf("%s with room: %v", image, err)
		}
	}
	s.intact(t)
}

// TestInterruptedPullsMakeRoom: what one pull has left for later must not keep another
// from coming.
func TestInterruptedPullsMakeRoom(t *testing.T) {
	s := newSmall(t, "40m")
	host, before := depot(t)
	random := make([]byte, 21<<20)
	_, _ = rand.Read(random)
	first, second := host+"/test/first:1", host+"/test/second:1"
	layer, data := pushImage(t, first, random[:10<<20])
	pushImage(t, second, random[10<<20:])
	cut := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, layer.Digest.String()) {
			return false
		}
		if r.Header.Get("Range") == "" {
			_, _ = w.Write(data[:9<<20])
		}
		panic(http.ErrAbortHandler)
	}
	before.Store(&cut)
	if _, err := s.Pull(t.Context(), runtime.PullRequest{Image: first}); err == nil || errors.Is(err, runtime.ErrNoSpace) {
		t.Fatalf("%v", err)
	}
	if n := len(leasesOf(t, s.address)); n != 1 {
		t.Fatalf("%d leases; the test has tested nothing", n)
	}
	if _, err := s.Pull(t.Context(), runtime.PullRequest{Image: second}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.says.String(), "makes room") {
		t.Errorf("there was room; the test has tested nothing: %s", s.says)
	}
	s.intact(t)
}

func descriptorOf(info content.Info) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: info.Digest, Size: info.Size}
}

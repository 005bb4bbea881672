//go:build integration

package containerd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/modlog"
)

// The tests need root, a containerd at its usual socket, runc, the CNI plugins,
// iptables and a Go toolchain. They run in network and mount namespaces of their
// own, as the daemon may (under "ip netns exec"), so that nothing they do can
// touch the host's network, and mounts of ours are not seen by containerd.
const (
	testNamespace = "breakwater-rt-test"
	socket        = "/run/containerd/containerd.sock"
	insideEnv     = "BREAKWATER_TEST_INSIDE"
)

var (
	registryHost string
	testHome     string
	initProgram  string
	testSubnet   = "172.30.77.0/24"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == modlog.WriterCommand {
		if err := modlog.RunWriter(os.Args[2]); err != nil {
			log.Fatal(err)
		}
		return
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(outside())
	}
	os.Exit(inside(m))
}

// outside runs the tests in new namespaces and then looks for leftovers.
func outside() int {
	home, err := os.MkdirTemp("", "breakwater-rt-")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(home)
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"="+home)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS}
	code := 0
	if err := cmd.Run(); err != nil {
		log.Print("tests: ", err)
		code = 1
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(home)) || bytes.Contains(mounts, []byte(testNamespace)) {
		log.Printf("mounts are left (%v)", err)
		code = 1
	}
	return code
}

func inside(m *testing.M) int {
	testHome = os.Getenv(insideEnv)
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		log.Printf("loopback: %v: %s", err, out)
		return 1
	}
	c, err := client.New(socket, client.WithDefaultNamespace(testNamespace))
	if err != nil {
		log.Print(err)
		return 1
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(context.Background(), testNamespace)
	if err := wipe(ctx, c); err != nil { // what an aborted run left
		log.Print("clean up before: ", err)
		return 1
	}
	server := httptest.NewServer(guarded(registry.New(registry.Logger(log.New(io.Discard, "", 0)))))
	defer server.Close()
	registryHost = strings.TrimPrefix(server.URL, "http://")
	if err := publish(); err != nil {
		log.Print("test image: ", err)
		return 1
	}
	code := m.Run()
	for _, check := range []func() error{
		func() error { return nothingLeft(ctx, c) },
		func() error { return wipe(ctx, c) },
		noNetworkLeft,
	} {
		if err := check(); err != nil {
			log.Print("after the tests: ", err)
			code = 1
		}
	}
	return code
}

// registryHook, if set, sees every request to the registry first, and may answer it.
var registryHook atomic.Pointer[func(http.ResponseWriter, *http.Request) (answered bool)]

// hook sets registryHook for the time of a test.
func hook(t *testing.T, f func(http.ResponseWriter, *http.Request) bool) (unhook func()) {
	t.Helper()
	registryHook.Store(&f)
	unhook = func() { registryHook.Store(nil) }
	t.Cleanup(unhook)
	return unhook
}

// guarded asks for an account on repositories below private/.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := registryHook.Load(); f != nil && (*f)(w, r) {
			return
		}
		user, password, _ := r.BasicAuth()
		if strings.HasPrefix(r.URL.Path, "/v2/private/") && (user != "gate" || password != "open sesame") {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func image(repo string) string { return registryHost + "/" + repo }

// publish builds the test image and pushes it as an index in which it is the
// second of two platforms.
func publish() error {
	binary := filepath.Join(testHome, "module")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./testdata/module")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	initProgram = filepath.Join(testHome, "edged-init")
	build = exec.Command("go", "build", "-o", initProgram, "../../cmd/edged-init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	img, err := buildImage(program)
	if err != nil {
		return err
	}
	foreign := v1.Platform{OS: "linux", Architecture: "riscv64"}
	if goruntime.GOARCH == foreign.Architecture {
		foreign.Architecture = "s390x"
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: empty.Image, Descriptor: v1.Descriptor{Platform: &foreign}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: goruntime.GOARCH}}})
	ref, err := name.ParseReference(image("test/module:1"), name.Insecure)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		return err
	}
	for _, repo := range []string{"test/plain:1", "test/spare:1", "private/module:1"} {
		ref, err := name.ParseReference(image(repo), name.Insecure)
		if err != nil {
			return err
		}
		if err := remote.Write(ref, img, remote.WithAuthFromKeychain(keychain{})); err != nil {
			return err
		}
	}
	return nil
}

func buildImage(program []byte) (v1.Image, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	var errs []error
	dir := func(path string) {
		errs = append(errs, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path, Mode: 0o755}))
	}
	file := func(path string, mode int64, data []byte) {
		errs = append(errs, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: mode, Size: int64(len(data))}))
		_, err := w.Write(data)
		errs = append(errs, err)
	}
	file("module", 0o755, program)
	dir("etc")
	file("etc/passwd", 0o644, []byte("root:x:0:0::/root:/\nworker:x:1234:2345::/home:/\n"))
	file("etc/group", 0o644, []byte("root:x:0:\nworkers:x:2345:\ndialout:x:20:worker\nvideo:x:44:\n"))
	dir("data")
	file("data/seed", 0o644, []byte("from the image\n"))
	dir("tmp")
	if err := errors.Join(append(errs, w.Close())...); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", goruntime.GOARCH
	cfg.Config.Entrypoint = []string{"/module"}
	cfg.Config.Env = []string{"FROM_IMAGE=yes"}
	cfg.Config.Labels = map[string]string{"from-image": "yes"}
	return mutate.ConfigFile(img, cfg)
}

// wipe removes everything from the test's containerd namespace, and it.
func wipe(ctx context.Context, c *client.Client) error {
	list, err := c.Containers(ctx)
	if err != nil {
		return err
	}
	for _, ctr := range list {
		if task, err := ctr.Task(ctx, nil); err == nil {
			if _, err := task.Delete(ctx, client.WithProcessKill); err != nil {
				return err
			}
		}
		if err := ctr.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			return err
		}
	}
	imgs, err := c.ImageService().List(ctx)
	if err != nil {
		return err
	}
	for _, img := range imgs {
		if err := c.ImageService().Delete(ctx, img.Name, images.SynchronousDelete()); err != nil {
			return err
		}
	}
	// The collector has run with the last deletion; an empty namespace can go.
	if err := c.NamespaceService().Delete(ctx, testNamespace); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + testNamespace)
	if err != nil {
		return err
	}
	for _, dir := range append(groups, "/sys/fs/cgroup/"+testNamespace) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// nothingLeft is what must hold after every module was removed and the network
// torn down: only images remain.
func nothingLeft(ctx context.Context, c *client.Client) error {
	list, err := c.Containers(ctx)
	if err != nil || len(list) > 0 {
		return fmt.Errorf("%d containers are left (%v)", len(list), err)
	}
	leases, err := c.LeasesService().List(ctx)
	if err != nil || len(leases) > 0 {
		return fmt.Errorf("leases are left: %v (%v)", leases, err)
	}
	return nil
}

func noNetworkLeft() error {
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		out, err := exec.Command(save).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", save, err, out)
		}
		for line := range strings.Lines(string(out)) {
			// The plugins' own empty top chains stay; nothing of a module or of ours may.
			if strings.Contains(line, "BREAKWATER") || strings.Contains(line, "CNI-DN-") || strings.Contains(line, "172.30.77.") ||
				strings.Contains(line, "module network") || strings.Contains(line, "fd") && strings.Contains(line, "::") {
				return fmt.Errorf("a rule is left: %s", line)
			}
		}
	}
	links, err := exec.Command("ip", "-brief", "link").CombinedOutput()
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	if strings.Contains(string(links), "bw-") || strings.Contains(string(links), "veth") {
		return fmt.Errorf("links are left: %s", links)
	}
	return nil
}

// open starts an engine below a directory of the test's.
func open(t *testing.T, home string) *containerd.Runtime {
	t.Helper()
	r, err := containerd.Open(t.Context(), config(home))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func config(home string) containerd.Config {
	return containerd.Config{
		Namespace: testNamespace, HomeDir: home, Init: initProgram, Network: netConfig(),
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// engine is an engine that the test's end tears down and closes.
func engine(t *testing.T) *containerd.Runtime {
	t.Helper()
	r := open(t, home(t))
	t.Cleanup(func() { closeAll(t, r) })
	return r
}

func closeAll(t *testing.T, r *containerd.Runtime) {
	t.Helper()
	if err := errors.Join(r.TearDown(context.Background()), r.Close()); err != nil {
		t.Error(err)
	}
}

// home is a directory below the one that is checked for leftover mounts.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(testHome, "home-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// foreign makes a container that is not the daemon's.
func foreign(t *testing.T, id string) {
	t.Helper()
	c, err := client.New(socket, client.WithDefaultNamespace(testNamespace))
	if err != nil {
		t.Fatal(err)
	}
	ctx := namespaces.WithNamespace(context.Background(), testNamespace)
	ctr, err := c.NewContainer(ctx, id, client.WithRuntime("io.containerd.runc.v2", nil), client.WithNewSpec())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(ctr.Delete(ctx), c.Close()); err != nil {
			t.Error(err)
		}
	})
}

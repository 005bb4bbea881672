//go:build integration

package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// weak is a registry on a bad line: of the large layer it sends limit bytes and then
// cuts the connection, or says nothing more. It has one image, which no other test pulls.
type weak struct {
	image string
	layer ocispec.Descriptor
	data  []byte

	mu     sync.Mutex
	limit  int  // 0: no limit
	silent bool // instead of a cut
	begins []int64
	sent   int
}

func newWeak(t *testing.T) *weak {
	t.Helper()
	w := &weak{}
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+w.layer.Digest.String()) {
			w.serve(rw, r)
			return
		}
		next.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	w.image = strings.TrimPrefix(server.URL, "http://") + "/test/weak:1"
	w.layer, w.data = pushLarge(t, w.image)
	return w
}

func (w *weak) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	limit, silent := w.limit, w.silent
	w.mu.Unlock()
	lw := &limited{ResponseWriter: rw, left: limit, weak: w, reader: bytes.NewReader(w.data)}
	if limit == 0 {
		lw.left = len(w.data)
	}
	rw.Header().Set("Content-Type", "application/octet-stream") // or the beginning is looked at
	http.ServeContent(lw, r, "", time.Time{}, lw)
	if !lw.full {
		return
	}
	_ = http.NewResponseController(rw).Flush()
	if silent {
		<-r.Context().Done()
	}
	panic(http.ErrAbortHandler)
}

func (w *weak) set(limit int, silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit, w.silent, w.begins, w.sent = limit, silent, nil, 0
}

func (w *weak) asked() (begins []int64, sent int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begins, w.sent
}

// limited takes as much of an answer as it may, and notes where it began.
type limited struct {
	http.ResponseWriter
	weak   *weak
	reader *bytes.Reader
	left   int
	full   bool
	begun  bool
}

// Seek implements io.Seeker: ServeContent seeks to the end, to the start, and to the range.
func (l *limited) Seek(offset int64, whence int) (int64, error) { return l.reader.Seek(offset, whence) }

// Read implements io.Reader.
func (l *limited) Read(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.weak.mu.Lock()
		l.weak.begins = append(l.weak.begins, l.reader.Size()-int64(l.reader.Len()))
		l.weak.mu.Unlock()
	}
	return l.reader.Read(p)
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	n, err := l.ResponseWriter.Write(p[:min(len(p), l.left)])
	l.left -= n
	l.weak.mu.Lock()
	l.weak.sent += n
	l.weak.mu.Unlock()
	if err == nil && n < len(p) {
		l.full = true
		err = io.ErrShortWrite
	}
	return n, err
}

// logged is an engine that logs into what is returned. Close it.
func logged(t *testing.T, change func(*containerd.Config)) (*containerd.Runtime, *lockedBuffer) {
	t.Helper()
	buf := &lockedBuffer{}
	cfg := config(home(t))
	cfg.Log = slog.New(slog.NewTextHandler(buf, nil))
	if change != nil {
		change(&cfg)
	}
	r, err := containerd.Open(t.Context(), cfg)
	must(t, err)
	return r, buf
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// collect lets the engine throw away what nobody needs, as it does when it starts.
func collect(t *testing.T, address string) {
	t.Helper()
	c, err := client.New(address, client.WithDefaultNamespace(testNamespace))
	must(t, err)
	ctx := namespaces.WithNamespace(context.Background(), testNamespace)
	l, err := c.LeasesService().Create(ctx, leases.WithRandomID())
	must(t, err)
	must(t, c.LeasesService().Delete(ctx, l, leases.SynchronousDelete))
	must(t, c.Close())
}

// leasesOf are the engine's leases.
func leasesOf(t *testing.T, address string) []leases.Lease {
	t.Helper()
	c, err := client.New(address, client.WithDefaultNamespace(testNamespace))
	must(t, err)
	list, err := c.LeasesService().List(namespaces.WithNamespace(context.Background(), testNamespace))
	must(t, err)
	must(t, c.Close())
	return list
}

func TestPullGoesOnAfterEachCutOfTheConnection(t *testing.T) {
	r, says := logged(t, nil)
	defer closeAll(t, r)
	w := newWeak(t)
	w.set(900<<10, false)
	if _, err := r.Pull(t.Context(), runtime.PullRequest{Image: w.image}); err != nil {
		t.Fatal(err)
	}
	begins, sent := w.asked()
	if len(begins) < 4 {
		t.Errorf("asked %d times; the test has tested nothing", len(begins))
	}
	for i, b := range begins[1:] {
		if b <= begins[i] {
			t.Errorf("range %d begins at %d, after one that began at %d", i+1, b, begins[i])
		}
	}
	// What is on its way when a connection is cut may be lost.
	if sent > len(w.data)*3/2 {
		t.Errorf("%d bytes were sent of a layer of %d", sent, len(w.data))
	}
	if !strings.Contains(says.String(), `msg="image pulled" image=`+w.image) {
		t.Errorf("no line about the pull: %s", says)
	}
}

// TestSilentRegistryIsGivenUp, and what it had sent is kept: through the end of the
// daemon, and a collection of garbage by the engine.
func TestSilentRegistryIsGivenUp(t *testing.T) {
	r, _ := logged(t, func(c *containerd.Config) { c.StallTimeout = time.Second })
	w := newWeak(t)
	w.set(len(w.data)/2, true)
	_, err := r.Pull(t.Context(), runtime.PullRequest{Image: w.image})
	var pe *runtime.PullError
	if !errors.Is(err, runtime.ErrUnavailable) || !errors.As(err, &pe) || !strings.Contains(err.Error(), "has sent nothing for 1s") {
		t.Fatalf("%v", err)
	}
	w.set(1, true)
	_, err = r.Pull(t.Context(), runtime.PullRequest{Image: w.image})
	if !errors.Is(err, runtime.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	if n := len(leasesOf(t, socket)); n != 1 {
		t.Errorf("%d leases after two attempts, want 1", n)
	}
	closeAll(t, r)
	collect(t, socket)

	r, says := logged(t, nil)
	defer closeAll(t, r)
	w.set(0, false)
	if _, err := r.Pull(t.Context(), runtime.PullRequest{Image: w.image}); err != nil {
		t.Fatal(err)
	}
	begins, sent := w.asked()
	if len(begins) != 1 || begins[0] == 0 || sent > len(w.data)/2+1<<20 {
		t.Errorf("ranges from %v, %d bytes of %d", begins, sent, len(w.data))
	}
	if !strings.Contains(says.String(), `msg="interrupted pull goes on"`) {
		t.Errorf("not told: %s", says)
	}
	if n := len(leasesOf(t, socket)); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}

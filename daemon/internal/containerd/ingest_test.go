//go:build integration

package containerd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// unranged is a registry that answers 416 to a request for the rest of a blob. It has
// one image, which no other test pulls.
type unranged struct {
	image string
	layer ocispec.Descriptor
	bytes []byte

	asked atomic.Int64 // how often for the rest of a blob
	stall atomic.Pointer[func()]
}

func newUnranged(t *testing.T) *unranged {
	t.Helper()
	u := &unranged{}
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		blob := r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+u.layer.Digest.String())
		switch stall := u.stall.Load(); {
		case blob && r.Header.Get("Range") != "":
			u.asked.Add(1)
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		case blob && stall != nil:
			_, _ = w.Write(u.bytes[:len(u.bytes)/2])
			_ = http.NewResponseController(w).Flush()
			(*stall)()
			<-r.Context().Done()
		default:
			next.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	u.image = strings.TrimPrefix(server.URL, "http://") + "/test/large:1"
	u.layer, u.bytes = pushLarge(t, u.image)
	return u
}

// pushLarge pushes an image of 4 MiB that nothing else has, and returns its layer.
func pushLarge(t *testing.T, image string) (ocispec.Descriptor, []byte) {
	t.Helper()
	program := make([]byte, 4<<20) // the engine writes a MiB at a time
	_, _ = rand.Read(program)
	return pushImage(t, image, program)
}

func pushImage(t *testing.T, image string, program []byte) (ocispec.Descriptor, []byte) {
	t.Helper()
	img, err := buildImage(program)
	must(t, err)
	ref, err := name.ParseReference(image, name.Insecure)
	must(t, err)
	must(t, remote.Write(ref, img))
	manifest, err := img.Manifest()
	must(t, err)
	l := manifest.Layers[0]
	layers, err := img.Layers()
	must(t, err)
	blob, err := layers[0].Compressed()
	must(t, err)
	data, err := io.ReadAll(blob)
	must(t, err)
	return ocispec.Descriptor{MediaType: string(l.MediaType), Digest: digest.Digest(l.Digest.String()), Size: l.Size}, data
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ingest calls fn with the engine's content and the name of the layer's ingest.
// What is there afterwards stays until the test's end.
func (u *unranged) ingest(t *testing.T, fn func(ctx context.Context, store content.Store, ref string)) {
	t.Helper()
	c, err := client.New(socket, client.WithDefaultNamespace(testNamespace))
	must(t, err)
	ctx := namespaces.WithNamespace(context.Background(), testNamespace)
	lease, err := c.LeasesService().Create(ctx, leases.WithRandomID())
	must(t, err)
	t.Cleanup(func() {
		must(t, c.LeasesService().Delete(ctx, lease))
		must(t, c.Close())
	})
	ref := remotes.MakeRefKey(ctx, u.layer)
	fn(ctx, c.ContentStore(), ref)
	must(t, c.LeasesService().AddResource(ctx, lease, leases.Resource{ID: ref, Type: "ingests"}))
}

func TestInterruptedPullIsBegunAnewWhereItCannotBeResumed(t *testing.T) {
	r := engine(t)
	u := newUnranged(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	half := make(chan struct{}, 8)
	stall := func() { half <- struct{}{} }
	u.stall.Store(&stall)
	pulled := make(chan error, 1)
	go func() {
		_, err := r.Pull(ctx, runtime.PullRequest{Image: u.image})
		pulled <- err
	}()
	<-half
	// What was sent has to be in the engine before the pull ends.
	u.ingest(t, func(ctx context.Context, store content.Store, ref string) {
		limit, tick := time.After(30*time.Second), time.NewTicker(10*time.Millisecond)
		defer tick.Stop()
		for {
			if st, err := store.Status(ctx, ref); err == nil && st.Offset > 0 {
				return
			}
			select {
			case <-tick.C:
			case <-limit:
				t.Error("nothing is written")
				return
			}
		}
	})
	cancel()
	if err := <-pulled; err == nil {
		t.Fatal("half an image is one")
	}
	u.stall.Store(nil)
	if _, err := r.Pull(t.Context(), runtime.PullRequest{Image: u.image}); err != nil {
		t.Fatal(err)
	}
	if u.asked.Load() == 0 {
		t.Error("the interrupted pull left nothing; the test has tested nothing")
	}
}

func TestIngestThatIsNotTheBlobIsThrownAway(t *testing.T) {
	r := engine(t)
	for name, kept := range map[string]func([]byte) []byte{
		"as long, with a hole": func(b []byte) []byte {
			b = bytes.Clone(b)
			clear(b[len(b)/2:])
			return b
		},
		"longer": func(b []byte) []byte { return append(bytes.Clone(b), "and more"...) },
	} {
		t.Run(name, func(t *testing.T) {
			u := newUnranged(t)
			u.ingest(t, func(ctx context.Context, store content.Store, ref string) {
				w, err := content.OpenWriter(ctx, store, content.WithRef(ref))
				must(t, err)
				_, err = w.Write(kept(u.bytes))
				must(t, err)
				must(t, w.Close())
			})
			if _, err := r.Pull(t.Context(), runtime.PullRequest{Image: u.image}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

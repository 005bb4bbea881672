//go:build integration

package containerd_test

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify/verifytest"
)

// variant pushes the test image with a label, so that it is another image.
func variant(t *testing.T, repo, label string) verify.Descriptor {
	t.Helper()
	plain, err := name.ParseReference(image("test/plain:1"), name.Insecure)
	check(t, err)
	img, err := remote.Image(plain)
	check(t, err)
	cfg, err := img.ConfigFile()
	check(t, err)
	cfg = cfg.DeepCopy()
	cfg.Config.Labels = map[string]string{"variant": label}
	img, err = mutate.ConfigFile(img, cfg)
	check(t, err)
	ref, err := name.ParseReference(image(repo), name.Insecure)
	check(t, err)
	check(t, remote.Write(ref, img))
	return descriptor(t, img)
}

func descriptor(t *testing.T, img v1.Image) verify.Descriptor {
	t.Helper()
	digest, err := img.Digest()
	check(t, err)
	size, err := img.Size()
	check(t, err)
	mediaType, err := img.MediaType()
	check(t, err)
	return verify.Descriptor{MediaType: string(mediaType), Digest: digest.String(), Size: size}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// verifier builds edged-verify once.
var verifier = sync.OnceValues(func() (string, error) {
	program := filepath.Join(testHome, "edged-verify")
	out, err := exec.Command("go", "build", "-o", program, "../../cmd/edged-verify").CombinedOutput()
	if err != nil {
		err = errors.Join(err, errors.New(string(out)))
	}
	return program, err
})

// gated opens an engine whose policies are for the test's registry.
func gated(t *testing.T, home string, signer *verifytest.Authority) *containerd.Runtime {
	t.Helper()
	program, err := verifier()
	check(t, err)
	root := filepath.Join(home, "root.pem")
	check(t, os.WriteFile(root, signer.Root, 0o600))
	cfg := config(home)
	cfg.Gate = verify.New(verify.Options{
		Policies: verify.NewPolicies([]verify.Policy{
			{Pattern: registryHost + "/test/*", Rule: verify.Notation, Trust: []string{root}},
			{Pattern: registryHost + "/test/pinned", Rule: verify.Digest},
		}),
		Dir: filepath.Join(home, "verified"), Program: program, Log: cfg.Log,
	})
	r, err := containerd.Open(t.Context(), cfg)
	check(t, err)
	return r
}

func sign(t *testing.T, a *verifytest.Authority, repo string, d verify.Descriptor) {
	t.Helper()
	s, err := a.Sign(t.Context(), d, "application/jose+json")
	check(t, err)
	r, err := name.NewRepository(image(repo), name.Insecure)
	check(t, err)
	check(t, verifytest.Push(r, d, s))
}

func TestImagesAreVerifiedBeforeTheyRun(t *testing.T) {
	ctx, home := t.Context(), home(t)
	signer, err := verifytest.NewAuthority("signer", time.Hour)
	check(t, err)
	stranger, err := verifytest.NewAuthority("stranger", time.Hour)
	check(t, err)
	r := gated(t, home, signer)
	defer func() { closeAll(t, r) }()
	pull := func(repo string) (runtime.Image, error) {
		return r.Pull(ctx, runtime.PullRequest{Image: image(repo)})
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, runtime.ErrUntrusted) {
			t.Errorf("%s: %v, want a refusal", what, err)
		}
	}
	present := func(digest string) bool {
		t.Helper()
		all, err := r.ListImages(ctx)
		check(t, err)
		for _, i := range all {
			if i.Digest == digest {
				return true
			}
		}
		return false
	}

	unsigned := variant(t, "test/signed:unsigned", "unsigned")
	_, err = pull("test/signed:unsigned")
	refused("unsigned", err)
	if present(unsigned.Digest) {
		t.Error("the refused image was pulled nevertheless")
	}
	sign(t, stranger, "test/signed", unsigned)
	_, err = pull("test/signed:unsigned")
	refused("signed by a stranger", err)

	// The tag is moved to the refused image after the decision, before the pull.
	good := variant(t, "test/signed:1", "good")
	sign(t, signer, "test/signed", good)
	var once sync.Once
	unhook := hook(t, func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodGet && strings.HasSuffix(q.URL.Path, "/manifests/"+good.Digest) {
			once.Do(func() { variant(t, "test/signed:1", "unsigned") })
		}
		return false
	})
	img, err := pull("test/signed:1")
	check(t, err)
	unhook()
	if img.Digest != good.Digest {
		t.Errorf("pulled %s, verified was %s", img.Digest, good.Digest)
	}
	check(t, r.Create(ctx, runtime.Spec{Name: "good", Image: image("test/signed:1"), Options: parsed(t, `{"Cmd":["exit=-1"]}`)}))
	check(t, r.Start(ctx, "good"))

	// Now the tag leads to the refused image: what runs runs on.
	_, err = pull("test/signed:1")
	refused("moved tag", err)
	running(t, r, "good")

	// An image that got in otherwise has a name and no verdict.
	pullBeside(t, image("test/signed:unsigned"))
	refused("create of an image without a verdict", r.Create(ctx, runtime.Spec{Name: "bad", Image: image("test/signed:unsigned"), Options: parsed(t, `{}`)}))
	_, err = r.Pull(ctx, runtime.PullRequest{Image: image("test/signed:unsigned"), Policy: runtime.PullNever})
	refused("policy never", err)

	// The registry serves another manifest under the digest that was signed.
	altered := variant(t, "test/signed:altered", "altered")
	sign(t, signer, "test/signed", altered)
	unhook = hook(t, func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodGet || !strings.HasSuffix(q.URL.Path, "/manifests/"+altered.Digest) {
			return false
		}
		w.Header().Set("Content-Type", altered.MediaType)
		_, _ = w.Write([]byte(strings.Repeat(" ", int(altered.Size))))
		return true
	})
	if _, err := pull("test/signed:altered"); err == nil {
		t.Error("an altered manifest was pulled")
	}
	unhook()

	variant(t, "test/pinned:1", "pinned")
	_, err = pull("test/pinned:1")
	refused("tag where a digest is due", err)
	_, err = pull("test/pinned@" + variant(t, "test/pinned:1", "pinned").Digest)
	check(t, err)

	// Without the registry: starts again by the verdict that is kept.
	unhook = hook(t, func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true })
	check(t, r.Stop(ctx, "good", 0))
	check(t, r.Start(ctx, "good"))

	// A stricter policy leaves what runs alone, until it is started again.
	check(t, r.Close())
	r = gated(t, home, stranger)
	running(t, r, "good")
	check(t, r.Stop(ctx, "good", 0))
	refused("start under the stricter policy", r.Start(ctx, "good"))
	unhook()
	refused("start with the registry", r.Start(ctx, "good"))
	sign(t, stranger, "test/signed", good)
	check(t, r.Start(ctx, "good"))
	running(t, r, "good")
}

func running(t *testing.T, r *containerd.Runtime, name string) {
	t.Helper()
	st, err := r.Get(t.Context(), name)
	if err != nil || st.Status != runtime.StatusRunning {
		t.Errorf("%s: %s (%v), want it to run", name, st.Status, err)
	}
}

// pullBeside pulls as whoever can use containerd's own tools may.
func pullBeside(t *testing.T, ref string) {
	t.Helper()
	c, err := client.New(socket, client.WithDefaultNamespace(testNamespace))
	check(t, err)
	defer c.Close()
	_, err = c.Pull(t.Context(), ref, client.WithPullUnpack, client.WithResolver(
		docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))})))
	check(t, err)
}

func parsed(t *testing.T, text string) createopts.Options {
	t.Helper()
	o, _, err := createopts.Parse([]byte(text))
	check(t, err)
	return o
}

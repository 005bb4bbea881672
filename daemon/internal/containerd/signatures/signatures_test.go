package signatures_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/signatures"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify/judge"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify/verifytest"
)

// TestMain makes the test binary edged-verify when it is started without arguments.
func TestMain(m *testing.M) {
	if len(os.Args) == 1 {
		if err := verify.Serve(context.Background(), os.Stdin, os.Stdout, judge.Judge); err != nil {
			log.Fatal(err)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	jws  = "application/jose+json"
	cose = "application/cose"
)

// rig is a registry with one image, and who signs.
type rig struct {
	t        *testing.T
	resolver remotes.Resolver
	repo     name.Repository
	image    verify.Descriptor
	other    verify.Descriptor // another image there
	signer   *verifytest.Authority
	stranger *verifytest.Authority
	key      *verifytest.Key
	foreign  *verifytest.Key
	dir      string
	down     atomic.Bool
	// alter changes what the registry answers.
	alter atomic.Pointer[func(path string, body []byte) []byte]
	asked atomic.Int64
}

func newRig(t *testing.T, referrers bool) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(referrers))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.asked.Add(1)
		alter := r.alter.Load()
		switch {
		case r.down.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case alter != nil && q.Method == http.MethodGet:
			rec := httptest.NewRecorder()
			inner.ServeHTTP(rec, q)
			for k, v := range rec.Header() {
				if k != "Content-Length" {
					w.Header()[k] = v
				}
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write((*alter)(q.URL.Path, rec.Body.Bytes()))
		default:
			inner.ServeHTTP(w, q)
		}
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	var err error
	if r.repo, err = name.NewRepository(host+"/team/app", name.Insecure); err != nil {
		t.Fatal(err)
	}
	r.resolver = docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))})
	r.image, r.other = r.push("1"), r.push("2")
	for _, a := range []**verifytest.Authority{&r.signer, &r.stranger} {
		*a, err = verifytest.NewAuthority("signer", 24*time.Hour)
		must(t, err)
	}
	for _, k := range []**verifytest.Key{&r.key, &r.foreign} {
		*k, err = verifytest.NewKey()
		must(t, err)
	}
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) push(tag string) verify.Descriptor {
	r.t.Helper()
	img, err := random.Image(64, 1)
	must(r.t, err)
	must(r.t, remote.Write(r.repo.Tag(tag), img))
	_, d, err := r.resolver.Resolve(r.t.Context(), r.repo.Tag(tag).String())
	must(r.t, err)
	return verify.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size}
}

// gate has one policy, for everything.
func (r *rig) gate(rule verify.Rule, trust []byte, identities ...string) *verify.Gate {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "trust.pem")
	must(r.t, os.WriteFile(file, trust, 0o600))
	exe, err := os.Executable()
	must(r.t, err)
	return verify.New(verify.Options{
		Policies: verify.NewPolicies([]verify.Policy{{Pattern: "*", Rule: rule, Trust: []string{file}, Identities: identities}}),
		Dir:      filepath.Join(r.dir, "verified"), Program: exe,
	})
}

func (r *rig) check(g *verify.Gate) error {
	return g.Check(r.t.Context(), verify.Image{Repository: r.repo.Name(), Descriptor: r.image}, r.fetch)
}

func (r *rig) fetch(ctx context.Context, rule verify.Rule) ([]verify.Signature, error) {
	return signatures.Fetch(ctx, r.resolver, r.repo.Name(), r.image.Digest, rule)
}

// put makes a signature and pushes it for the image.
func (r *rig) put(s verify.Signature, err error) {
	r.t.Helper()
	must(r.t, err)
	must(r.t, verifytest.Push(r.repo, r.image, s))
}

func TestSignatures(t *testing.T) {
	const attestation = "https://slsa.dev/provenance/v1"
	for _, tc := range []struct {
		name string
		rule verify.Rule
		put  func(*rig)
		ids  []string
		want string // "" is trusted, else part of the reason
	}{
		{"notation, JWS", verify.Notation, func(r *rig) { r.put(r.signer.Sign(t.Context(), r.image, jws)) }, nil, ""},
		{"notation, COSE", verify.Notation, func(r *rig) { r.put(r.signer.Sign(t.Context(), r.image, cose)) }, nil, ""},
		{"notation, identity", verify.Notation, func(r *rig) { r.put(r.signer.Sign(t.Context(), r.image, jws)) }, []string{"C=DE, ST=BY, O=Test"}, ""},
		{"notation, other identity", verify.Notation, func(r *rig) { r.put(r.signer.Sign(t.Context(), r.image, jws)) }, []string{"C=DE, ST=BY, O=Other"}, "identit"},
		{"notation, the second is good", verify.Notation, func(r *rig) {
			r.put(r.stranger.Sign(t.Context(), r.image, jws))
			r.put(r.signer.Sign(t.Context(), r.image, jws))
		}, nil, ""},
		{"notation, unsigned", verify.Notation, func(*rig) {}, nil, "no notation signature"},
		{"notation, by a stranger", verify.Notation, func(r *rig) { r.put(r.stranger.Sign(t.Context(), r.image, jws)) }, nil, "does not contain any trusted certificate"},
		{"notation, of another image", verify.Notation, func(r *rig) { r.put(r.signer.Sign(t.Context(), r.other, jws)) }, nil, "descriptor mismatch"},
		{"notation, signed by cosign only", verify.Notation, func(r *rig) { r.put(r.key.Sign(r.image)) }, nil, "no notation signature"},
		{"notation, garbage", verify.Notation, func(r *rig) {
			r.put(verify.Signature{Form: verify.FormNotation, MediaType: jws, Payload: []byte("{")}, nil)
		}, nil, "none of 1 signatures"},
		{"cosign, tag", verify.Cosign, func(r *rig) { r.put(r.key.Sign(r.image)) }, nil, ""},
		{"cosign, referrer", verify.Cosign, func(r *rig) {
			s, err := r.key.Sign(r.image)
			must(t, errors.Join(err, verifytest.Refer(r.repo, r.image, s)))
		}, nil, ""},
		{"cosign, bundle", verify.Cosign, func(r *rig) { r.put(r.key.Bundle(r.image, verifytest.SignPredicate)) }, nil, ""},
		{"cosign, unsigned", verify.Cosign, func(*rig) {}, nil, "no cosign signature"},
		{"cosign, by another key", verify.Cosign, func(r *rig) { r.put(r.foreign.Sign(r.image)) }, nil, "by no key that is trusted"},
		{"cosign, of another image", verify.Cosign, func(r *rig) { r.put(r.key.Sign(r.other)) }, nil, "for another image"},
		{"cosign, bundle by another key", verify.Cosign, func(r *rig) { r.put(r.foreign.Bundle(r.image, verifytest.SignPredicate)) }, nil, "by no key that is trusted"},
		{"cosign, bundle of another image", verify.Cosign, func(r *rig) { r.put(r.key.Bundle(r.other, verifytest.SignPredicate)) }, nil, "for another image"},
		{"cosign, only an attestation", verify.Cosign, func(r *rig) { r.put(r.key.Bundle(r.image, attestation)) }, nil, attestation},
		{"cosign, altered document", verify.Cosign, func(r *rig) {
			s, err := r.key.Sign(r.other)
			s.Payload = []byte(strings.ReplaceAll(string(s.Payload), r.other.Digest, r.image.Digest))
			r.put(s, err)
		}, nil, "altered"},
	} {
		for _, referrers := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, referrers API %v", tc.name, referrers), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, referrers)
				tc.put(r)
				trust := r.signer.Root
				if tc.rule == verify.Cosign {
					trust = r.key.Public
				}
				g := r.gate(tc.rule, trust, tc.ids...)
				expect(t, r.check(g), tc.want)
				// What was refused is refused again, what was trusted needs no registry.
				r.down.Store(true)
				if tc.want == "" {
					expect(t, r.check(g), "")
				} else if r.check(g) == nil {
					t.Error("trusted offline what was refused")
				}
			})
		}
	}
}

// TestKeylessSignatureComesFromTheRegistry, and is judged by the program, with nothing
// but what the device has.
func TestKeylessSignatureComesFromTheRegistry(t *testing.T) {
	const issuer, robot = "https://token.example.com", "https://build.example.com/team/app"
	store, err := verifytest.NewSigstore()
	must(t, err)
	for _, referrers := range []bool{true, false} {
		r := newRig(t, referrers)
		expect(t, r.check(r.gate(verify.Cosign, store.Root, "issuer="+issuer+", subject="+robot)), "no cosign signature")
		r.put(store.Bundle(r.image, robot, issuer, verifytest.SignPredicate, true))
		expect(t, r.check(r.gate(verify.Cosign, store.Root, "issuer="+issuer+", subject=https://build.example.com/other/*")), "none of 1")
		expect(t, r.check(r.gate(verify.Cosign, store.Root, "issuer="+issuer+", subject=https://build.example.com/team/*")), "")
	}
}

func expect(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && !errors.Is(err, runtime.ErrUntrusted):
		t.Errorf("%v, want a refusal for %q", err, want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("refused for %v, want %q", err, want)
	}
}

func TestVerdictsAreKept(t *testing.T) {
	r := newRig(t, true)
	r.put(r.signer.Sign(t.Context(), r.image, jws))
	g := r.gate(verify.Notation, r.signer.Root)
	must(t, r.check(g))
	files, err := filepath.Glob(filepath.Join(r.dir, "verified", "*"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("files %v", files)
	}
	for path, mode := range map[string]os.FileMode{files[0]: 0o600, filepath.Dir(files[0]): 0o700} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v (%v), want %v", path, st.Mode(), err, mode)
		}
	}
	before := r.asked.Load()
	must(t, r.check(g))
	if r.asked.Load() != before {
		t.Error("the registry was asked although the verdict is kept")
	}

	// A policy with other certificates does not take over the verdict, but the kept
	// signatures do for it while the registry is away.
	r.down.Store(true)
	both := append(append([]byte{}, r.stranger.Root...), r.signer.Root...)
	must(t, r.check(r.gate(verify.Notation, both)))
	expect(t, r.check(r.gate(verify.Notation, r.stranger.Root)), "does not contain any trusted certificate")
	if err := r.check(r.gate(verify.Cosign, r.key.Public)); err == nil {
		t.Error("notation signature taken for one of cosign")
	}

	must(t, g.Forget(r.image.Digest))
	if err := r.check(g); err == nil || errors.Is(err, runtime.ErrUntrusted) {
		t.Errorf("%v: with nothing kept and no registry it cannot be decided", err)
	}
	r.down.Store(false)
	must(t, r.check(g))

	// A damaged record is as good as none; a record of another image does not count.
	must(t, os.WriteFile(files[0], []byte("{"), 0o600))
	must(t, r.check(g))
	data, err := os.ReadFile(files[0])
	must(t, err)
	must(t, os.WriteFile(strings.Replace(files[0], strings.TrimPrefix(r.image.Digest, "sha256:"), strings.TrimPrefix(r.other.Digest, "sha256:"), 1), data, 0o600))
	r.image = r.other
	expect(t, r.check(g), "no notation signature")
}

func TestAlteredSignatureContentIsLeftOut(t *testing.T) {
	r := newRig(t, true)
	r.put(r.key.Sign(r.image))
	g := r.gate(verify.Cosign, r.key.Public)
	alter := func(path string, body []byte) []byte {
		if strings.Contains(path, "/blobs/") {
			return bytes.ToUpper(body)
		}
		return body
	}
	r.alter.Store(&alter)
	expect(t, r.check(g), "no cosign signature")
	r.alter.Store(nil)
	must(t, r.check(g))
}

func TestFailuresAreNoVerdicts(t *testing.T) {
	r := newRig(t, true)
	img := verify.Image{Repository: r.repo.Name(), Descriptor: r.image}
	policy := verify.Policy{Pattern: "*", Rule: verify.Cosign, Trust: []string{filepath.Join(t.TempDir(), "gone.pem")}}
	g := verify.New(verify.Options{Policies: verify.NewPolicies([]verify.Policy{policy}), Dir: r.dir})
	if err := g.Check(t.Context(), img, r.fetch); err == nil || !strings.Contains(err.Error(), "gone.pem") {
		t.Errorf("trust file gone: %v", err)
	}
	must(t, os.WriteFile(policy.Trust[0], r.key.Public, 0o600))
	for program, want := range map[string]string{"/nonexistent/edged-verify": "no such file", "/bin/false": "exit status 1", "/bin/true": "answers"} {
		g := verify.New(verify.Options{Policies: verify.NewPolicies([]verify.Policy{policy}), Dir: r.dir, Program: program})
		if err := g.Check(t.Context(), img, r.fetch); err == nil || errors.Is(err, runtime.ErrUntrusted) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", program, err, want)
		}
	}
}

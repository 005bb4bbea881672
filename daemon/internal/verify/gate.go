package verify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Options configures New.
type Options struct {
	Policies Policies
	// Dir is where verdicts and signatures are kept.
	Dir string
	// Program is edged-verify.
	Program string
	Log     *slog.Logger
}

// Gate lets images through, or not. It is safe for concurrent use.
type Gate struct {
	opt   Options
	store store
}

// New makes a gate.
func New(opt Options) *Gate {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Gate{opt: opt, store: store{opt.Dir}}
}

// Image is what is to be let through.
type Image struct {
	// Repository is the complete name, as in "docker.io/library/alpine".
	Repository string
	Descriptor Descriptor
	// Pinned says that the reference of the deployment names the digest.
	Pinned bool
}

// Fetcher brings an image's signatures.
type Fetcher func(ctx context.Context, rule Rule) ([]Signature, error)

// Check returns nil if the image may run, and runtime.ErrUntrusted with the reason
// if the policy is against it. Other errors say that it could not be decided; the
// image must not run then either. fetch may be nil: then only what is kept counts.
func (g *Gate) Check(ctx context.Context, img Image, fetch Fetcher) error {
	if g.opt.Policies.Empty() {
		return nil
	}
	p, ok := g.opt.Policies.For(img.Repository)
	switch {
	case !ok:
		return fmt.Errorf("%w: no policy of [image_verification] is for %s", runtime.ErrUntrusted, img.Repository)
	case p.Rule == Any:
		return nil
	case p.Rule == Digest && img.Pinned:
		return nil
	case p.Rule == Digest:
		return fmt.Errorf("%w: the policy for %s wants a reference with a digest, as in %s@%s",
			runtime.ErrUntrusted, p.Pattern, img.Repository, img.Descriptor.Digest)
	case !p.Rule.signed():
		return fmt.Errorf("%w: the policy for %s has the unknown rule %q", runtime.ErrUntrusted, p.Pattern, p.Rule)
	}
	return g.signed(ctx, p, img, fetch)
}

// signed decides by signatures.
func (g *Gate) signed(ctx context.Context, p Policy, img Image, fetch Fetcher) error {
	trust, err := readTrust(p)
	if err != nil {
		return err
	}
	print, err := fingerprint(p, trust)
	if err != nil {
		return err
	}
	known, err := g.store.load(img.Repository, img.Descriptor.Digest)
	if err != nil {
		// As good as none: it is written anew.
		g.opt.Log.WarnContext(ctx, "kept verdict not readable", "image", img.Repository, "digest", img.Descriptor.Digest, "error", err)
	}
	if known.Policy == print {
		return nil
	}
	signatures, err := g.signatures(ctx, p, known, fetch)
	if err != nil {
		return err
	}
	v, err := run(ctx, g.opt.Program, Request{
		Rule: p.Rule, Repository: img.Repository, Image: img.Descriptor,
		Trust: trust, Identities: p.Identities, Signatures: signatures,
	})
	if err != nil {
		return fmt.Errorf("verify %s@%s: %w", img.Repository, img.Descriptor.Digest, err)
	}
	if !v.Trusted {
		return fmt.Errorf("%w: %s@%s, policy %s for %s: %s", runtime.ErrUntrusted, img.Repository, img.Descriptor.Digest, p.Rule, p.Pattern, v.Reason)
	}
	g.opt.Log.InfoContext(ctx, "image verified", "image", img.Repository, "digest", img.Descriptor.Digest, "by", v.By)
	return g.store.save(record{
		Repository: img.Repository, Image: img.Descriptor, Policy: print, By: v.By,
		Time: time.Now().UTC(), Signatures: signatures,
	})
}

// signatures are the registry's, or those kept when it does not give them.
func (g *Gate) signatures(ctx context.Context, p Policy, known record, fetch Fetcher) ([]Signature, error) {
	if fetch == nil {
		return known.Signatures, nil
	}
	found, err := fetch(ctx, p.Rule)
	if err == nil {
		return found, nil
	}
	if len(known.Signatures) == 0 {
		return nil, err
	}
	g.opt.Log.WarnContext(ctx, "signatures not fetched, the kept ones count", "image", known.Repository, "digest", known.Image.Digest, "error", err)
	return known.Signatures, nil
}

// Forget removes what is kept of images with this digest.
func (g *Gate) Forget(digest string) error { return g.store.forget(digest) }

// maxTrust bounds a trust file.
const maxTrust = 256 << 10

func readTrust(p Policy) ([][]byte, error) {
	var out [][]byte
	for _, name := range p.Trust {
		data, err := readBounded(name)
		if err != nil {
			return nil, fmt.Errorf("policy for %s: trust: %w", p.Pattern, err)
		}
		out = append(out, data)
	}
	return out, nil
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTrust+1))
	if err == nil && len(data) > maxTrust {
		err = fmt.Errorf("%s is larger than 256 KiB", name)
	}
	return data, err
}

// fingerprint names what a verdict depends on, besides the image.
func fingerprint(p Policy, trust [][]byte) (string, error) {
	data, err := json.Marshal(struct {
		Rule       Rule
		Trust      [][]byte
		Identities []string
	}{p.Rule, trust, p.Identities})
	if err != nil {
		return "", fmt.Errorf("policy for %s: %w", p.Pattern, err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

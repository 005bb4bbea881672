// Package signatures brings the signatures of an image from its registry. What they
// are worth is not its concern: see package verify.
package signatures

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

// Bounds of what is taken from a registry for one image. Who can push there can so
// hide a good signature behind many bad ones, and only that: the image is refused.
const (
	maxSignatures = 32
	maxBlob       = 1 << 20
	maxTotal      = 8 << 20
)

// Media types and annotations of signatures.
const (
	typeNotation       = "application/vnd.cncf.notary.signature"
	typeCosignArtifact = "application/vnd.dev.cosign.artifact.sig.v1+json"
	typeSimpleSigning  = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeBundle         = "application/vnd.dev.sigstore.bundle.v0.3+json"
	annotationCosign   = "dev.cosignproject.cosign/signature"
)

// Fetch brings the signatures of an image that lie beside it: what refers to it, by
// the registry's referrers API or else by its tag schema, and for cosign also what
// is under the tag "sha256-….sig". What has not the form of a signature is left out.
func Fetch(ctx context.Context, resolver remotes.Resolver, repository, imageDigest string, rule verify.Rule) ([]verify.Signature, error) {
	d, err := digest.Parse(imageDigest)
	if err != nil {
		return nil, fmt.Errorf("image digest: %w", err)
	}
	fetcher, err := resolver.Fetcher(ctx, repository+"@"+imageDigest)
	if err != nil {
		return nil, fmt.Errorf("signatures: %w", err)
	}
	c := &collector{fetcher: fetcher, rule: rule}
	types := []string{typeNotation}
	if rule == verify.Cosign {
		types = []string{typeBundle, typeCosignArtifact}
		if err := c.tagged(ctx, resolver, repository, d); err != nil {
			return nil, fmt.Errorf("signatures: %w", err)
		}
	}
	referrers, ok := fetcher.(remotes.ReferrersFetcher)
	if !ok {
		return nil, errors.New("signatures: the engine's client cannot ask for referrers")
	}
	for _, t := range types {
		descs, err := referrers.FetchReferrers(ctx, d, remotes.WithReferrerArtifactTypes(t))
		if err != nil {
			return nil, fmt.Errorf("signatures: %w", err)
		}
		for _, desc := range descs {
			if err := c.manifest(ctx, desc); err != nil {
				return nil, fmt.Errorf("signature %s: %w", desc.Digest, err)
			}
		}
	}
	return c.found, nil
}

// collector gathers signatures within the bounds.
type collector struct {
	fetcher remotes.Fetcher
	rule    verify.Rule
	found   []verify.Signature
	bytes   int
}

// tagged reads what cosign 2 pushes.
func (c *collector) tagged(ctx context.Context, resolver remotes.Resolver, repository string, d digest.Digest) error {
	_, desc, err := resolver.Resolve(ctx, repository+":"+strings.Replace(d.String(), ":", "-", 1)+".sig")
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.manifest(ctx, desc)
}

// manifest takes the signatures of one manifest.
func (c *collector) manifest(ctx context.Context, desc ocispec.Descriptor) error {
	if len(c.found) >= maxSignatures {
		return nil
	}
	data, err := c.blob(ctx, desc)
	if errors.Is(err, errUnfit) {
		return nil
	}
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	_ = json.Unmarshal(data, &m) // what is no manifest has no layers
	for _, layer := range m.Layers {
		s, ok := c.form(layer)
		if !ok || len(c.found) >= maxSignatures {
			continue
		}
		s.Payload, err = c.blob(ctx, layer)
		if errors.Is(err, errUnfit) {
			continue
		}
		if err != nil {
			return err
		}
		c.found = append(c.found, s)
	}
	return nil
}

// form tells what a layer holds, if the rule has a use for it.
func (c *collector) form(layer ocispec.Descriptor) (verify.Signature, bool) {
	if c.rule == verify.Notation {
		ok := layer.MediaType == "application/jose+json" || layer.MediaType == "application/cose"
		return verify.Signature{Form: verify.FormNotation, MediaType: layer.MediaType}, ok
	}
	if layer.MediaType == typeBundle {
		return verify.Signature{Form: verify.FormBundle}, true
	}
	text := layer.Annotations[annotationCosign]
	ok := layer.MediaType == typeSimpleSigning && text != "" && len(text) <= 16<<10
	return verify.Signature{Form: verify.FormSimpleSigning, Signature: text}, ok
}

// errUnfit is content that is too large, or not what its digest says.
var errUnfit = errors.New("not fit")

// blob reads content and checks its digest.
func (c *collector) blob(ctx context.Context, desc ocispec.Descriptor) (_ []byte, err error) {
	if desc.Size < 0 || desc.Size > maxBlob || c.bytes+int(desc.Size) > maxTotal || desc.Digest.Validate() != nil {
		return nil, errUnfit
	}
	r, err := c.fetcher.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err := io.ReadAll(io.LimitReader(r, desc.Size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != desc.Size || desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, errUnfit
	}
	c.bytes += len(data)
	return data, nil
}

package containerd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"crypto/tls"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/signatures"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/verify"
)

// parseRef completes a reference as Docker does: docker.io, library/, :latest. A
// tag beside a digest is dropped, because the digest decides.
func parseRef(image string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(strings.TrimSpace(image))
	if err != nil {
		return nil, fmt.Errorf("%w: image %q: %w", runtime.ErrInvalid, image, err)
	}
	if d, ok := named.(reference.Digested); ok {
		return reference.WithDigest(reference.TrimNamed(named), d.Digest())
	}
	return reference.TagNameOnly(named), nil
}

// Pull implements runtime.Images.
func (r *Runtime) Pull(ctx context.Context, req runtime.PullRequest) (runtime.Image, error) {
	ctx = r.ctx(ctx)
	named, err := parseRef(req.Image)
	if err != nil {
		return runtime.Image{}, err
	}
	registry := reference.Domain(named)
	fail := func(err error) (runtime.Image, error) {
		return runtime.Image{}, &runtime.PullError{Image: req.Image, Registry: registry, Err: err}
	}
	switch {
	case req.Policy == runtime.PullNever, req.ID != "":
		img, err := r.present(ctx, named, req.ID)
		if errors.Is(err, runtime.ErrImageNotFound) {
			return fail(fmt.Errorf("%w, and the registry is not asked", err))
		}
		if err != nil {
			return fail(err)
		}
		if err := r.admit(ctx, named, img.Target(), nil); err != nil {
			return fail(err)
		}
		return describeImage(ctx, img)
	case req.Policy == runtime.PullOnCreate, req.Policy == "":
	default:
		return fail(fmt.Errorf("%w: pull policy %q", runtime.ErrInvalid, req.Policy))
	}
	p := &pull{image: named.String(), log: r.log, stall: r.cfg.StallTimeout, offset: r.offset}
	watched := p.watch(ctx)
	img, err := r.pull(watched, named, req.Auth, p)
	p.close()
	if err != nil {
		return fail(p.cause(watched, pullCause(err)))
	}
	return describeImage(ctx, img)
}

// pull asks the registry for an image and the gate whether it may come, and fetches it.
func (r *Runtime) pull(ctx context.Context, named reference.Named, auth runtime.Auth, p *pull) (client.Image, error) {
	resolver := r.resolver(reference.Domain(named), auth, p)
	name, desc, err := resolver.Resolve(ctx, named.String())
	if err != nil {
		return nil, err
	}
	if err := r.admit(ctx, named, desc, resolver); err != nil {
		return nil, err
	}
	if err := r.keep(ctx, named, desc.Digest); err != nil {
		return nil, err
	}
	return r.fetch(ctx, named.String(), resolved{resolver, name, desc}, p)
}

// resolved is a resolver that has done so already: what is pulled is what was
// looked at, whatever the tag says meanwhile.
type resolved struct {
	remotes.Resolver
	name string
	desc ocispec.Descriptor
}

// Resolve implements remotes.Resolver.
func (r resolved) Resolve(context.Context, string) (string, ocispec.Descriptor, error) {
	return r.name, r.desc, nil
}

// admit asks the gate for an image. Signatures come through resolver; without one
// those that are kept must do.
func (r *Runtime) admit(ctx context.Context, named reference.Named, desc ocispec.Descriptor, resolver remotes.Resolver) error {
	_, pinned := named.(reference.Digested)
	img := verify.Image{
		Repository: named.Name(), Pinned: pinned,
		Descriptor: verify.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size},
	}
	var fetch verify.Fetcher
	if resolver != nil {
		fetch = func(ctx context.Context, rule verify.Rule) ([]verify.Signature, error) {
			return signatures.Fetch(ctx, resolver, named.Name(), desc.Digest.String(), rule)
		}
	}
	return r.cfg.Gate.Check(ctx, img, fetch)
}

// admitStored asks the gate for the image that a container was made from. What the
// policy needs and is not kept is fetched without an account.
func (r *Runtime) admitStored(ctx context.Context, m module) error {
	named, err := parseRef(m.Image)
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.Digest(m.ImageDigest), Size: m.ImageSize}
	if err := r.admit(ctx, named, desc, r.resolver(reference.Domain(named), runtime.Auth{}, nil)); err != nil {
		return pullCause(err)
	}
	return nil
}

// resolver speaks to one registry, over plain HTTP only on this machine. What it gets
// is counted for p, unless that is nil.
func (r *Runtime) resolver(registry string, auth runtime.Auth, p *pull) remotes.Resolver {
	var transport http.RoundTripper = docker.DefaultHTTPTransport(&tls.Config{RootCAs: r.cfg.RootCAs, MinVersion: tls.VersionTLS12})
	if p != nil {
		transport = metered{transport, p}
	}
	httpClient := &http.Client{Transport: transport}
	authorizer := docker.NewDockerAuthorizer(
		docker.WithAuthClient(httpClient),
		docker.WithAuthCreds(func(host string) (string, string, error) {
			if registryHost(host) != registry || auth.ServerAddress != "" && registryHost(auth.ServerAddress) != registry {
				return "", "", nil
			}
			return auth.Username, string(auth.Password), nil
		}))
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(
			docker.WithClient(httpClient),
			docker.WithAuthorizer(authorizer),
			docker.WithPlainHTTP(docker.MatchLocalhost)),
	})
}

// registryHost brings the many spellings of a registry's address to the one that
// references have.
func registryHost(address string) string {
	host := strings.ToLower(address)
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}

// pullCause tells the kinds of failure apart.
func pullCause(err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	var transport *url.Error
	switch {
	case errors.Is(err, runtime.ErrUntrusted), errors.Is(err, runtime.ErrNoSpace):
		return err
	case errors.Is(err, docker.ErrInvalidAuthorization),
		errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return fmt.Errorf("%w: %w", runtime.ErrUnauthorized, err)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%w: %w", runtime.ErrImageNotFound, err)
	case errors.As(err, &transport), errors.As(err, &status), errdefs.IsUnavailable(err):
		return fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	}
	return err
}

func describeImage(ctx context.Context, img client.Image) (runtime.Image, error) {
	config, err := img.Config(ctx)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("image %s: %w", img.Name(), err)
	}
	return runtime.Image{ID: config.Digest.String(), Digest: img.Target().Digest.String(), Names: []string{img.Name()}}, nil
}

// ListImages implements runtime.Images.
func (r *Runtime) ListImages(ctx context.Context) ([]runtime.Image, error) {
	ctx = r.ctx(ctx)
	all, err := r.client.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", translate(err))
	}
	var out []runtime.Image
	for _, img := range all {
		d, err := describeImage(ctx, img)
		if errdefs.IsNotFound(err) {
			continue // its content is incomplete or for another platform
		}
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(out, func(o runtime.Image) bool { return o.ID == d.ID && o.Digest == d.Digest })
		if i < 0 {
			out = append(out, d)
		} else {
			out[i].Names = append(out[i].Names, d.Names...)
		}
	}
	return out, nil
}

// RemoveImage implements runtime.Images.
func (r *Runtime) RemoveImage(ctx context.Context, id string) error {
	ctx = r.ctx(ctx)
	modules, err := r.List(ctx)
	if err != nil {
		return err
	}
	for _, m := range modules {
		if m.ImageID == id {
			return fmt.Errorf("%w: %s by module %s", runtime.ErrInUse, id, m.Name)
		}
	}
	all, err := r.ListImages(ctx)
	if err != nil {
		return err
	}
	for _, img := range all {
		if img.ID != id {
			continue
		}
		for _, name := range img.Names {
			err := r.client.ImageService().Delete(ctx, name, images.SynchronousDelete())
			if err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("remove image %s: %w", name, translate(err))
			}
		}
		if err := r.cfg.Gate.Forget(img.Digest); err != nil {
			return fmt.Errorf("remove image %s: %w", id, err)
		}
	}
	return nil
}

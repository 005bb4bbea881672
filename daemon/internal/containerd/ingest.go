package containerd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// fetch pulls an image and unpacks it. What an interrupted pull has fetched is kept
// for the next one, except when the disk is full or the registry gives something else.
func (r *Runtime) fetch(ctx context.Context, name string, resolver remotes.Resolver, p *pull) (client.Image, error) {
	unlock, err := r.pulls.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	lease, err := r.lease(ctx, name)
	if err != nil {
		return nil, err
	}
	img, err := r.client.Pull(leases.WithLease(ctx, lease.ID), name,
		client.WithPullUnpack, client.WithImageHandlerWrapper(r.fetching(name, p)), client.WithResolver(resolver))
	p.close() // the engine's client may return before all that it has begun has ended
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	switch {
	case err == nil, futile(err):
		if err := r.free(ctx, lease, false); err != nil {
			r.log.WarnContext(ctx, "lease of a pull is left for a day", "image", name, "error", err)
		}
		if err == nil {
			p.succeeded(ctx)
		}
	case errors.Is(err, runtime.ErrNoSpace), outOfSpace(err):
		cleaned := errors.Join(r.free(ctx, lease, true), r.dropInterrupted(ctx, name))
		if !errors.Is(err, runtime.ErrNoSpace) {
			err = r.noSpace(ctx, err)
		}
		return nil, errors.Join(err, cleaned)
	}
	return img, err
}

// cleanTimeout bounds what is done after a pull.
const cleanTimeout = time.Minute

// fetching wraps what fetches one blob after the other. The engine keeps what an
// interrupted pull has written and goes on from there; where that cannot lead to the
// blob, the beginning is thrown away and the blob fetched anew, once. Without it every
// later pull would fail in the same way.
func (r *Runtime) fetching(name string, p *pull) func(images.Handler) images.Handler {
	return func(next images.Handler) images.Handler {
		return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			children, err := r.fetchBlob(ctx, next, desc, p)
			if err != nil || !images.IsManifestType(desc.MediaType) {
				return children, err
			}
			p.expect(children)
			return children, r.room(ctx, name, children)
		})
	}
}

func (r *Runtime) fetchBlob(ctx context.Context, next images.Handler, desc ocispec.Descriptor, p *pull) (children []ocispec.Descriptor, err error) {
	ref := remotes.MakeRefKey(ctx, desc)
	// Another pull may want the same blob: it must not lose what this one writes.
	unlock, err := r.ingests.lock(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !p.begin(ref, desc) {
		return nil, context.Canceled
	}
	defer func() { p.end(ref, desc, err == nil) }()
	if n := r.offset(ctx, ref); n > 0 {
		r.log.InfoContext(ctx, "interrupted pull goes on", "image", p.image, "digest", desc.Digest, "from", n, "of", desc.Size)
	}
	children, err = next.Handle(ctx, desc)
	if !futile(err) {
		return children, err
	}
	r.log.WarnContext(ctx, "interrupted pull cannot be resumed, the blob is fetched anew", "digest", desc.Digest, "cause", err)
	if err := abort(ctx, r.client.ContentStore(), ref); err != nil {
		return nil, err
	}
	if children, err = next.Handle(ctx, desc); futile(err) {
		return nil, errors.Join(err, abort(ctx, r.client.ContentStore(), ref))
	}
	return children, err
}

// offset is how much the engine has of an unfinished blob.
func (r *Runtime) offset(ctx context.Context, ref string) int64 {
	st, err := r.client.ContentStore().Status(ctx, ref)
	if err != nil {
		return 0 // nothing yet, or it is finished
	}
	return st.Offset
}

// futile tells whether a fetch will fail again as long as its beginning is kept: the
// registry does not serve the rest of the blob (some know no open-ended ranges), or
// what is kept is not the beginning of it, as after a power cut.
func futile(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	return errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable ||
		errdefs.IsFailedPrecondition(err)
}

// abort throws away what an ingest has. The engine may still be closing the files of
// the fetch that has just failed, and then cannot remove them.
func abort(ctx context.Context, store content.IngestManager, ref string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for attempt := 1; ; attempt++ {
		err := store.Abort(ctx, ref)
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		if attempt == abortAttempts {
			return fmt.Errorf("abort the ingest %s: %w", ref, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const abortAttempts = 100

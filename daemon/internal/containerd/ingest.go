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
	"github.com/containerd/containerd/v2/core/remotes"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetch pulls an image and unpacks it.
func (r *Runtime) fetch(ctx context.Context, name string, resolver remotes.Resolver) (client.Image, error) {
	// The client would leave its lease for a day if the pull were cancelled.
	leased, release, err := r.client.WithLease(ctx)
	if err != nil {
		return nil, translate(err)
	}
	img, err := r.client.Pull(leased, name, client.WithPullUnpack, client.WithImageHandlerWrapper(r.fetching), client.WithResolver(resolver))
	if err := release(context.WithoutCancel(leased)); err != nil && !errdefs.IsNotFound(err) {
		r.log.WarnContext(ctx, "lease of a pull is left for a day", "image", name, "err", err)
	}
	return img, err
}

// fetching wraps what fetches one blob after the other. The engine keeps what an
// interrupted pull has written and goes on from there; where that cannot lead to the
// blob, the beginning is thrown away and the blob fetched anew, once. Without it every
// later pull would fail in the same way.
func (r *Runtime) fetching(next images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		ref := remotes.MakeRefKey(ctx, desc)
		// Another pull may want the same blob: it must not lose what this one writes.
		unlock, err := r.ingests.lock(ctx, ref)
		if err != nil {
			return nil, err
		}
		defer unlock()
		children, err := next.Handle(ctx, desc)
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
	})
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

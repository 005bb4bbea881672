package containerd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

const (
	// labelPull names, on a lease, the image whose pull it is of.
	labelPull = "io.breakwater.pull"
	// keepInterrupted is how long what an interrupted pull has fetched is kept for the
	// next one.
	keepInterrupted = 24 * time.Hour
)

// lease makes a lease for a pull, which takes over what earlier ones of the same image
// have left. Without one the engine's collector would throw away what an interrupted
// pull has fetched, at the latest when the engine starts.
func (r *Runtime) lease(ctx context.Context, name string) (leases.Lease, error) {
	service := r.client.LeasesService()
	old, err := service.List(ctx, pullFilter(name))
	if err != nil {
		return leases.Lease{}, fmt.Errorf("leases: %w", translate(err))
	}
	l, err := service.Create(ctx, leases.WithRandomID(), leases.WithExpiration(keepInterrupted), leases.WithLabel(labelPull, name))
	if err != nil {
		return leases.Lease{}, fmt.Errorf("lease of the pull: %w", translate(err))
	}
	for _, o := range old {
		if err := takeOver(ctx, service, l, o); err != nil {
			// They go on as they are, until they expire.
			r.log.WarnContext(ctx, "what an interrupted pull has left is not taken over", "image", name, "error", err)
		}
	}
	return l, nil
}

func pullFilter(name string) string {
	return "labels." + strconv.Quote(labelPull) + "==" + strconv.Quote(name)
}

func takeOver(ctx context.Context, service leases.Manager, l, old leases.Lease) error {
	resources, err := service.ListResources(ctx, old)
	if err != nil {
		return translate(err)
	}
	for _, res := range resources {
		if err := service.AddResource(ctx, l, res); err != nil {
			return translate(err)
		}
	}
	return translate(service.Delete(ctx, old))
}

// free ends a lease. With now it returns when the engine has removed what nothing else
// needs.
func (r *Runtime) free(ctx context.Context, l leases.Lease, now bool) error {
	var opts []leases.DeleteOpt
	if now {
		opts = append(opts, leases.SynchronousDelete)
	}
	if err := r.client.LeasesService().Delete(ctx, l, opts...); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("lease of the pull: %w", translate(err))
	}
	return nil
}

// dropInterrupted removes what interrupted pulls have left, except of name, and of
// those that are under way again.
func (r *Runtime) dropInterrupted(ctx context.Context, name string) error {
	all, err := r.client.LeasesService().List(ctx, "labels."+strconv.Quote(labelPull))
	if err != nil {
		return fmt.Errorf("leases: %w", translate(err))
	}
	var errs []error
	for _, l := range all {
		image := l.Labels[labelPull]
		if image == name || r.pulls.busy(image) {
			continue
		}
		r.log.InfoContext(ctx, "what is there of an interrupted pull makes room", "image", image)
		errs = append(errs, r.free(ctx, l, true))
	}
	return errors.Join(errs...)
}

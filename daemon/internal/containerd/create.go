package containerd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

const (
	shimRuntime = "io.containerd.runc.v2"
	maxLabel    = 4096 // containerd's limit for key and value
)

// Create implements runtime.Modules.
func (r *Runtime) Create(ctx context.Context, spec runtime.Spec) error {
	ctx = r.ctx(ctx)
	if err := runtime.CheckName(spec.Name); err != nil {
		return err
	}
	unlock, err := r.locks.lock(ctx, spec.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.create(ctx, spec); err != nil {
		return fmt.Errorf("create module %s: %w", spec.Name, err)
	}
	r.events.publish(runtime.Event{Type: runtime.EventCreated, Module: spec.Name, Time: time.Now()})
	return nil
}

func (r *Runtime) create(ctx context.Context, spec runtime.Spec) error {
	switch _, err := r.client.LoadContainer(ctx, spec.Name); {
	case err == nil:
		return runtime.ErrExists
	case !errdefs.IsNotFound(err):
		return translate(err)
	}
	named, err := parseRef(spec.Image)
	if err != nil {
		return err
	}
	// A lease keeps the garbage collector off what is not yet referred to.
	ctx, done, err := r.client.WithLease(ctx)
	if err != nil {
		return translate(err)
	}
	defer func() {
		if err := done(context.WithoutCancel(ctx)); err != nil {
			r.log.Warn("lease not ended", "module", spec.Name, "error", err)
		}
	}()
	img, err := r.present(ctx, named, spec.ImageID)
	if err != nil {
		return fmt.Errorf("image %s: %w", spec.Image, err)
	}
	// Another image may have got the name since the pull.
	if err := r.admit(ctx, named, img.Target(), nil); err != nil {
		return err
	}
	plan, err := r.plan(ctx, spec, img)
	if err != nil {
		return err
	}
	for _, s := range plan.Sources {
		if _, err := os.Stat(s.Path); err != nil {
			return fmt.Errorf("%w: %s: %w", runtime.ErrInvalid, s.Option, err)
		}
	}
	for _, w := range plan.Warnings {
		r.log.Warn("create option without effect", "module", spec.Name, "option", w.Path, "reason", w.Reason)
	}
	described, err := describeImage(ctx, img)
	if err != nil {
		return err
	}
	plan.Labels[runtime.LabelOriginalImage] = spec.Image
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return fmt.Errorf("instance id: %w", err)
	}
	m := module{
		Image: spec.Image, ImageID: described.ID, ImageDigest: described.Digest,
		MediaType: img.Target().MediaType, ImageSize: img.Target().Size,
		Instance: hex.EncodeToString(id[:]), Created: time.Now().UTC(), Labels: plan.Labels, Record: plan.Record,
	}
	return r.store(ctx, spec.Name, img, plan, m)
}

func (r *Runtime) plan(ctx context.Context, spec runtime.Spec, img client.Image) (*ocimap.Plan, error) {
	config, err := img.Spec(ctx)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", spec.Image, err)
	}
	check, err := imageHealthcheck(ctx, img)
	if err != nil {
		return nil, err
	}
	host := r.host
	host.Etc = r.hosts.Paths(spec.Name)
	return ocimap.Build(ocimap.Input{
		Name: spec.Name, Namespace: r.cfg.Namespace, Options: spec.Options, Image: config.Config, Healthcheck: check, Host: host,
	})
}

// store makes the writable layer and the container. On failure neither is left.
func (r *Runtime) store(ctx context.Context, name string, img client.Image, plan *ocimap.Plan, m module) (err error) {
	ext, err := m.any()
	if err != nil {
		return err
	}
	snapshot := name + "-" + m.Instance
	c, err := r.client.NewContainer(ctx, name,
		client.WithRuntime(shimRuntime, nil),
		client.WithImage(img),
		withUnpacked(img),
		client.WithNewSnapshot(snapshot, img),
		r.withLookups(plan),
		r.withDevices(plan), // after the user, whose the nodes become
		client.WithSpec(plan.Spec),
		client.WithContainerLabels(shortLabels(plan.Labels)),
		func(_ context.Context, _ *client.Client, c *containers.Container) error {
			c.Extensions = map[string]typeurl.Any{extension: ext}
			return nil
		})
	if err != nil {
		undo := r.client.SnapshotService("").Remove(context.WithoutCancel(ctx), snapshot)
		if errdefs.IsNotFound(undo) {
			undo = nil
		}
		return errors.Join(translate(err), undo)
	}
	if err := r.makeVolumes(ctx, c, plan.Record.Volumes); err != nil {
		return errors.Join(err, c.Delete(context.WithoutCancel(ctx), client.WithSnapshotCleanup))
	}
	return nil
}

// withUnpacked makes sure of the image's layers, which an image that came by
// another way than Pull may not have.
func withUnpacked(img client.Image) client.NewContainerOpts {
	return func(ctx context.Context, _ *client.Client, c *containers.Container) error {
		ok, err := img.IsUnpacked(ctx, c.Snapshotter)
		if err != nil || ok {
			return err
		}
		return img.Unpack(ctx, c.Snapshotter)
	}
}

// shortLabels are the labels that containerd can hold. They are only for people
// who look with its tools; the module record has all.
func shortLabels(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		if k != "" && len(k)+len(v) <= maxLabel {
			out[k] = v
		}
	}
	return out
}

// snapshotsOnly hides that the client offers more than old servers know.
type snapshotsOnly struct{ *client.Client }

func (s snapshotsOnly) SnapshotService(name string) snapshots.Snapshotter {
	return s.Client.SnapshotService(name)
}

// withLookups turns names of users and groups into numbers by the image's files.
func (r *Runtime) withLookups(plan *ocimap.Plan) client.NewContainerOpts {
	return func(ctx context.Context, cl *client.Client, c *containers.Container) error {
		var opts []oci.SpecOpts
		if plan.User != "" {
			user, _, _ := strings.Cut(plan.User, ":")
			opts = append(opts, oci.WithUser(plan.User), oci.WithAdditionalGIDs(user))
		}
		if len(plan.Groups) > 0 {
			opts = append(opts, oci.WithAppendAdditionalGroups(plan.Groups...))
		}
		looker := struct{ oci.Client }{snapshotsOnly{cl}}
		for _, opt := range opts {
			if err := opt(ctx, looker, c, plan.Spec); err != nil {
				return fmt.Errorf("%w: User %q, HostConfig.GroupAdd %q: %w", runtime.ErrInvalid, plan.User, plan.Groups, err)
			}
		}
		return nil
	}
}

// makeVolumes creates missing volumes and fills new ones from the image.
func (r *Runtime) makeVolumes(ctx context.Context, c client.Container, volumes []ocimap.Volume) error {
	var fill []ocimap.Volume
	for _, v := range volumes {
		if err := os.MkdirAll(v.Path, 0o755); err != nil {
			return fmt.Errorf("volume: %w", err)
		}
		entries, err := os.ReadDir(v.Path)
		if err != nil {
			return fmt.Errorf("volume: %w", err)
		}
		if v.Fill && len(entries) == 0 {
			fill = append(fill, v)
		}
	}
	if len(fill) == 0 {
		return nil
	}
	info, err := c.Info(ctx, client.WithoutRefreshedMetadata)
	if err != nil {
		return translate(err)
	}
	mounts, err := r.client.SnapshotService(info.Snapshotter).Mounts(ctx, info.SnapshotKey)
	if err != nil {
		return fmt.Errorf("image layers: %w", translate(err))
	}
	return mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		for _, v := range fill {
			src, err := fs.RootPath(root, v.Target)
			if err != nil {
				return fmt.Errorf("volume at %s: %w", v.Target, err)
			}
			if info, err := os.Stat(src); err != nil || !info.IsDir() {
				continue // the image has nothing there
			}
			if err := fs.CopyDir(v.Path, src); err != nil {
				return fmt.Errorf("fill volume at %s: %w", v.Target, err)
			}
		}
		return nil
	})
}

func (r *Runtime) logDir(name string) string { return filepath.Join(r.cfg.HomeDir, "logs", name) }

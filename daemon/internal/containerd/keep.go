package containerd

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// labelKept marks names that images were given when their own went to others.
const labelKept = "io.breakwater.kept"

// keep gives the image that a name stands for a name by its digest, before the name goes
// to another image. Images that no module was made from are not kept.
func (r *Runtime) keep(ctx context.Context, named reference.Named, next digest.Digest) error {
	have, err := r.client.ImageService().Get(ctx, named.String())
	if errdefs.IsNotFound(err) || err == nil && have.Target.Digest == next {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the image that has the name: %w", translate(err))
	}
	modules, err := r.List(ctx)
	if err != nil {
		return err
	}
	if !madeFrom(modules, have.Target.Digest) {
		return nil
	}
	byDigest, err := reference.WithDigest(reference.TrimNamed(named), have.Target.Digest)
	if err != nil {
		return fmt.Errorf("keep image %s: %w", named, err)
	}
	_, err = r.client.ImageService().Create(ctx, images.Image{
		Name: byDigest.String(), Target: have.Target, Labels: map[string]string{labelKept: "true"},
	})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("keep image %s: %w", byDigest, translate(err))
	}
	r.log.InfoContext(ctx, "the name goes to another image", "image", named.String(), "kept", have.Target.Digest)
	return nil
}

func madeFrom(modules []runtime.State, image digest.Digest) bool {
	return slices.ContainsFunc(modules, func(m runtime.State) bool { return m.ImageDigest == image.String() })
}

// byID finds an image by its id among those of the same repository: what is known of
// another repository says nothing about whether the image may run.
func (r *Runtime) byID(ctx context.Context, named reference.Named, id string) (client.Image, error) {
	all, err := r.client.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", translate(err))
	}
	for _, img := range all {
		other, err := reference.ParseNamed(img.Name())
		if err != nil || other.Name() != named.Name() {
			continue // no image of ours
		}
		d, err := describeImage(ctx, img)
		if errdefs.IsNotFound(err) {
			continue // its content is incomplete
		}
		if err != nil {
			return nil, err
		}
		if d.ID == id {
			return img, nil
		}
	}
	return nil, fmt.Errorf("%w on the device with the id %s", runtime.ErrImageNotFound, id)
}

// present finds the image of a reference on the device, or with an id that image of the
// same repository.
func (r *Runtime) present(ctx context.Context, named reference.Named, id string) (client.Image, error) {
	if id != "" {
		return r.byID(ctx, named, id)
	}
	img, err := r.client.GetImage(ctx, named.String())
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%w on the device", runtime.ErrImageNotFound)
	}
	if err != nil {
		return nil, translate(err)
	}
	return img, nil
}

// ReleaseImages implements runtime.Images.
func (r *Runtime) ReleaseImages(ctx context.Context, keep []string) error {
	ctx = r.ctx(ctx)
	kept, err := r.client.ListImages(ctx, "labels."+strconv.Quote(labelKept)+"==true")
	if err != nil {
		return fmt.Errorf("list kept images: %w", translate(err))
	}
	if len(kept) == 0 {
		return nil
	}
	// After the names: those that are given meanwhile are for modules that there are.
	modules, err := r.List(ctx)
	if err != nil {
		return err
	}
	for _, img := range kept {
		if madeFrom(modules, img.Target().Digest) {
			continue
		}
		switch d, err := describeImage(ctx, img); {
		case err == nil && slices.Contains(keep, d.ID):
			continue
		case err != nil && !errdefs.IsNotFound(err):
			return err
		}
		if err := r.release(ctx, img); err != nil {
			return err
		}
	}
	return nil
}

// release takes a kept name away, and what is known of the image if it was the last.
func (r *Runtime) release(ctx context.Context, img client.Image) error {
	err := r.client.ImageService().Delete(ctx, img.Name())
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("release image %s: %w", img.Name(), translate(err))
	}
	r.log.InfoContext(ctx, "kept image is released", "image", img.Name())
	others, err := r.client.ListImages(ctx, "target.digest=="+img.Target().Digest.String())
	if err != nil {
		return fmt.Errorf("list images: %w", translate(err))
	}
	if len(others) > 0 {
		return nil
	}
	if err := r.cfg.Gate.Forget(img.Target().Digest.String()); err != nil {
		return fmt.Errorf("release image %s: %w", img.Name(), err)
	}
	return nil
}

package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

const (
	// unpackFactor is how much more a compressed layer takes when it is unpacked, at
	// least: an estimate that refuses too much would be worse than one that lets a pull
	// begin that then fails.
	unpackFactor = 2
	// A pull leaves alone the last twentieth of a file system, at most 64 MiB: without
	// them edgeHub takes no messages.
	reservedPart = 20
	maxReserved  = 64 << 20
)

// place is a file system that images fill.
type place struct {
	path string
	id   syscall.Fsid
	free int64
	// spare is what an image may take of it.
	spare int64
}

func lookAt(path string) (place, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return place{}, fmt.Errorf("free space of %s: %w", path, err)
	}
	unit := int64(st.Frsize) //nolint:unconvert // 32 bits on ARM
	free, reserved := int64(st.Bavail)*unit, min(int64(st.Blocks)*unit/reservedPart, maxReserved)
	return place{path: path, id: st.Fsid, free: free, spare: max(free-reserved, 0)}, nil
}

// roots are the folders in which the engine keeps what it fetches and what it unpacks.
// They are empty where it does not say.
func (r *Runtime) roots(ctx context.Context) (fetched, unpacked string, err error) {
	resp, err := r.client.IntrospectionService().Plugins(ctx,
		`type=="io.containerd.content.v1"`, `type=="io.containerd.snapshotter.v1",id=="`+defaults.DefaultSnapshotter+`"`)
	if err != nil {
		return "", "", fmt.Errorf("folders of the engine: %w", translate(err))
	}
	for _, p := range resp.GetPlugins() {
		root := p.GetExports()["root"]
		if p.GetType() == "io.containerd.content.v1" {
			fetched = root
		} else {
			unpacked = root
		}
	}
	return fetched, unpacked, nil
}

// room refuses an image for which there is no room, before its layers are fetched.
func (r *Runtime) room(ctx context.Context, name string, parts []ocispec.Descriptor) error {
	fetch, unpack, err := r.missing(ctx, parts)
	if err != nil {
		return err
	}
	if fetch+unpack == 0 {
		return nil
	}
	contentRoot, layerRoot, err := r.roots(ctx)
	if err != nil {
		return err
	}
	err = fits(contentRoot, layerRoot, fetch, unpack)
	if !errors.Is(err, runtime.ErrNoSpace) {
		return err
	}
	// What interrupted pulls have left for later has to make room.
	if err := r.dropInterrupted(ctx, name); err != nil {
		return err
	}
	return fits(contentRoot, layerRoot, fetch, unpack)
}

// missing adds up what is to be fetched, and what it takes when it is unpacked.
func (r *Runtime) missing(ctx context.Context, parts []ocispec.Descriptor) (fetch, unpack int64, err error) {
	store := r.client.ContentStore()
	for _, d := range parts {
		switch _, err := store.Info(ctx, d.Digest); {
		case err == nil:
			continue
		case !errdefs.IsNotFound(err):
			return 0, 0, fmt.Errorf("content of the engine: %w", translate(err))
		}
		fetch += max(d.Size-r.offset(ctx, remotes.MakeRefKey(ctx, d)), 0)
		if !images.IsLayerType(d.MediaType) {
			continue
		}
		if kind, err := images.DiffCompression(ctx, d.MediaType); err == nil && kind == "" {
			unpack += d.Size
		} else {
			unpack += unpackFactor * d.Size
		}
	}
	return fetch, unpack, nil
}

// fits compares with what is free. A folder that is not known or cannot be seen from
// here is no reason to refuse.
func fits(contentRoot, layerRoot string, fetch, unpack int64) error {
	content, contentErr := lookAt(contentRoot)
	layers, layersErr := lookAt(layerRoot)
	if contentErr == nil && layersErr == nil && content.id == layers.id {
		fetch, unpack = fetch+unpack, 0
	}
	if contentErr == nil && fetch > content.spare {
		return tooLittle(content, fetch)
	}
	if layersErr == nil && unpack > layers.spare {
		return tooLittle(layers, unpack)
	}
	return nil
}

func tooLittle(p place, need int64) error {
	return fmt.Errorf("%w: about %s are needed on the file system of %s, which has %s to spare", runtime.ErrNoSpace,
		byteSize(need), p.path, byteSize(p.spare))
}

// outOfSpace tells whether an engine's error is a full disk. Of errors on its side
// only the text arrives.
func outOfSpace(err error) bool {
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, full) || err != nil && strings.Contains(err.Error(), full.Error()) {
			return true
		}
	}
	return false
}

// noSpace describes a disk that became full during a pull.
func (r *Runtime) noSpace(ctx context.Context, err error) error {
	root, _, rootErr := r.roots(ctx)
	if rootErr != nil {
		return fmt.Errorf("%w: %w", runtime.ErrNoSpace, err)
	}
	p, statErr := lookAt(root)
	if statErr != nil {
		return fmt.Errorf("%w: %w", runtime.ErrNoSpace, err)
	}
	return fmt.Errorf("%w: the file system of %s has %s free, with what was fetched removed: %w", runtime.ErrNoSpace,
		root, byteSize(p.free), err)
}

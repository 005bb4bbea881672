package rig

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Registry is an OCI registry that may outlive a rig: building and pushing the images is
// most of what it costs to bring a rig up. It serves one rig at a time.
type Registry struct {
	handler http.Handler
	// pushed is what the program said that has pushed the images, without and with that
	// of the Node SDK.
	pushed map[bool]string
}

// NewRegistry makes an empty registry that keeps blobs in folder, which the caller
// removes, and writes its log to log.
func NewRegistry(folder string, log io.Writer) (*Registry, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	blobs := registry.NewDiskBlobHandler(folder)
	return &Registry{
		handler: registry.New(registry.WithBlobHandler(blobs), registry.Logger(newLog(log))), pushed: map[bool]string{},
	}, nil
}

// openRegistry serves the registry, and makes it if none was given.
func (r *Rig) openRegistry() (err error) {
	if r.Registry != nil {
		return r.serveRegistry()
	}
	if r.log, err = os.OpenFile(r.logPath("registry"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	if r.Registry, err = NewRegistry(filepath.Join(r.Dir, "registry"), r.log); err != nil {
		return err
	}
	return r.serveRegistry()
}

// serveRegistry serves the registry on the device.
func (r *Rig) serveRegistry() error {
	l, err := Device.Listen(registryAddr)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	r.registry = &http.Server{Handler: r.Registry.handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = r.registry.Serve(l) }() // ends by Close
	return nil
}

// PushImages builds the images for this machine and pushes them to the registry, unless
// it has them from an earlier rig.
func (r *Rig) PushImages(ctx context.Context) (string, error) {
	for node, out := range r.Registry.pushed {
		if node || !r.NodeModule {
			return out, nil
		}
	}
	r.say("building the images and pushing them to %s", registryPrefix)
	args := []string{
		"push", "--root", r.Root, "--platform", "linux/" + goarch(), "--version", imageTag,
		"--only", "edgeagent,edgehub,temperature-sensor,filter",
	}
	if r.NodeModule {
		args = append(args, "--node")
	}
	out, err := r.command(ctx, Device, nil, r.bin("images"), append(args, registryPrefix)...)
	if err == nil {
		r.Registry.pushed[r.NodeModule] = out
	}
	return out, err
}

const imageTag = "dev"

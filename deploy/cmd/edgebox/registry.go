package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// imageRegistry is an OCI registry; its blobs are kept on disk, its tags for as
// long as it runs.
type imageRegistry struct {
	listener net.Listener
	server   *http.Server
}

func openRegistry(o options) (*imageRegistry, error) {
	folder := filepath.Join(o.Home, "registry")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	l, err := net.Listen("tcp", o.Registry)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	blobs := registry.NewDiskBlobHandler(folder)
	return &imageRegistry{listener: l, server: &http.Server{
		Handler:           registry.New(registry.WithBlobHandler(blobs), registry.Logger(log.New(io.Discard, "", 0))),
		ReadHeaderTimeout: 10 * time.Second,
	}}, nil
}

// serve serves until ctx ends.
func (r *imageRegistry) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = r.server.Close() })
	defer stop()
	if err := r.server.Serve(r.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("registry: %w", err)
	}
	return nil
}

// fill pushes the OCI layouts in dir, each under the name of its folder.
func (r *imageRegistry) fill(ctx context.Context, dir, tag string) error {
	folders, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	_, port, err := net.SplitHostPort(r.listener.Addr().String())
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	for _, f := range folders {
		index, err := layout.ImageIndexFromPath(filepath.Join(dir, f.Name()))
		if err != nil {
			return fmt.Errorf("image %s: %w", f.Name(), err)
		}
		ref, err := name.ParseReference(net.JoinHostPort("localhost", port) + "/breakwater/" + f.Name() + ":" + tag)
		if err != nil {
			return fmt.Errorf("image %s: %w", f.Name(), err)
		}
		if err := remote.WriteIndex(ref, index, remote.WithContext(ctx)); err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
	}
	return nil
}

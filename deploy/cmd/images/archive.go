package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/breakwater-iot/breakwater/deploy/internal/image"
)

// archiveCmd makes what docker-compose.yml runs: the local cloud, and an edge
// device in one container that brings the images of its modules with it.
type archiveCmd struct {
	File string `arg:"" help:"Archive to write, for docker load." type:"path"`
	Bin  string `help:"Folder of the built programs." default:"bin" type:"existingdir"`
}

func (a *archiveCmd) Run(ctx context.Context, c *cli) (err error) {
	layouts, err := os.MkdirTemp("", "breakwater-layouts-")
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(layouts)) }()

	pf := image.HostPlatform()
	modules := cli{Root: c.Root, Version: c.Version, Platform: []string{pf.String()},
		Only: []string{"edgeagent", "edgehub", "temperature-sensor", "filter"}}
	if err := (&saveCmd{Dir: layouts}).Run(ctx, &modules); err != nil {
		return err
	}
	b := image.Builder{Root: c.Root, Version: c.Version}
	box, err := image.EdgeBox(ctx, c.Root, a.Bin, layouts)
	if err != nil {
		return err
	}
	images := map[name.Tag]v1.Image{}
	index, err := b.TreeIndex(box)
	if err != nil {
		return err
	}
	if err := addHostImage(images, box.Name, c.Version, index, pf); err != nil {
		return err
	}
	for _, p := range image.Programs() {
		if p.Name != "iothub" {
			continue
		}
		if index, err = b.Index(ctx, p, []image.Platform{pf}); err != nil {
			return err
		}
		if err := addHostImage(images, p.Name, c.Version, index, pf); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(a.File), 0o755); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err := tarball.MultiWriteToFile(a.File, images); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	for tag := range images {
		fmt.Printf("%s in %s\n", tag.String(), a.File)
	}
	return nil
}

// addHostImage takes the one image of an index that was built for this machine.
func addHostImage(images map[name.Tag]v1.Image, program, version string, index v1.ImageIndex, pf image.Platform) error {
	tag, err := name.NewTag("breakwater/" + program + ":" + version)
	if err != nil {
		return fmt.Errorf("image name: %w", err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		return fmt.Errorf("image %s: want one image for %s: %w", program, pf, err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		return fmt.Errorf("image %s: %w", program, err)
	}
	images[tag] = img
	return nil
}

package bench

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// sizes builds the images and prints what they take.
func sizes(ctx context.Context, o Options) ([]Bar, error) {
	programs := []string{"edgehub", "edgeagent"}
	dir := o.dir("images")
	args := []string{"save", "--root", o.Root, "--platform", "linux/" + runtime.GOARCH}
	for _, p := range programs {
		args = append(args, "--only", p)
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(o.Bin, "images"), append(args, dir)...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("images save: %w: %s", err, out)
	}
	w := table(o.Out)
	fmt.Fprintf(w, "image for %s\tto transfer, compressed\tunpacked\t\n", runtime.GOARCH)
	var bars []Bar
	for _, p := range programs {
		packed, unpacked, err := imageSize(filepath.Join(dir, p))
		if err != nil {
			return nil, fmt.Errorf("image of %s: %w", p, err)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", p, megabytes(packed), megabytes(unpacked))
		const limit = 20e6
		bars = append(bars, Bar{"image of " + p, "below 20 MB", megabytes(packed) + ", unpacked " + megabytes(unpacked), packed < limit})
	}
	return bars, w.Flush()
}

// imageSize is the size of the one image of a layout: of what a registry sends, and of
// its files.
func imageSize(folder string) (packed, unpacked int64, err error) {
	path, err := layout.FromPath(folder)
	if err != nil {
		return 0, 0, err
	}
	index, err := path.ImageIndex()
	if err != nil {
		return 0, 0, err
	}
	image, err := onlyImage(index)
	if err != nil {
		return 0, 0, err
	}
	layers, err := image.Layers()
	if err != nil {
		return 0, 0, err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return 0, 0, err
	}
	packed = int64(len(config))
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			return 0, 0, err
		}
		packed += n
		files, err := l.Uncompressed()
		if err != nil {
			return 0, 0, err
		}
		n, err = io.Copy(io.Discard, files)
		files.Close()
		if err != nil {
			return 0, 0, err
		}
		unpacked += n
	}
	return packed, unpacked, nil
}

func onlyImage(index v1.ImageIndex) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(m.Manifests) != 1 {
		return nil, fmt.Errorf("%d entries in an index in place of one", len(m.Manifests))
	}
	if inner := m.Manifests[0]; inner.MediaType.IsIndex() {
		next, err := index.ImageIndex(inner.Digest)
		if err != nil {
			return nil, err
		}
		return onlyImage(next)
	}
	return index.Image(m.Manifests[0].Digest)
}

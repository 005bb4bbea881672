package rig

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// CopyImage puts an image of the rig's registry there under another name, with files put
// in place of its own: path without the leading slash to content. Names have no registry:
// "other/agent:1". It returns the copy's digest.
func (r *Rig) CopyImage(ctx context.Context, from, to string, files map[string][]byte) (digest string, err error) {
	image, err := r.copyImage(ctx, from, to, files)
	if err != nil {
		return "", fmt.Errorf("copy image %s to %s: %w", from, to, err)
	}
	hash, err := image.Digest()
	return hash.String(), err
}

func (r *Rig) copyImage(ctx context.Context, from, to string, files map[string][]byte) (v1.Image, error) {
	source, err := name.ParseReference(registryHost + "/" + from)
	if err != nil {
		return nil, err
	}
	target, err := name.ParseReference(registryHost + "/" + to)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DialContext: Device.Dial, DisableKeepAlives: true}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(transport), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: goarch()}),
	}
	image, err := remote.Image(source, options...)
	if err != nil {
		return nil, err
	}
	if len(files) > 0 {
		layer, err := programs(files)
		if err != nil {
			return nil, err
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return nil, err
		}
	}
	return image, remote.Write(target, image, options...)
}

// programs makes a layer of executable files.
func programs(files map[string][]byte) (v1.Layer, error) {
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for path, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil })
}

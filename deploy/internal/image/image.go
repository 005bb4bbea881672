// Package image builds the container images of Breakwater: one static Go binary on
// an otherwise empty file system, for several platforms, without a container
// engine. The same sources and Go release give the same digests.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Program is one program that becomes one image.
type Program struct {
	// Name is the last part of the repository name and of the binary's path.
	Name string
	// Dir and Package say where `go build` runs and what it builds.
	Dir, Package string
	// Ports are shown to tools ("8883/tcp"); nothing is published by them.
	Ports []string
}

// Platform is an operating system and processor, as in "linux/arm/v7".
type Platform struct{ OS, Arch, Variant string }

// ParsePlatform reads "os/arch[/variant]".
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "linux" || parts[1] == "" {
		return Platform{}, fmt.Errorf("platform %q: want linux/ARCH[/VARIANT]", s)
	}
	p := Platform{OS: parts[0], Arch: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	if p.Arch == "arm" && p.Variant != "v7" && p.Variant != "v6" {
		return Platform{}, fmt.Errorf("platform %q: arm needs variant v6 or v7", s)
	}
	return p, nil
}

func (p Platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Arch+"/"+p.Variant, "/")
}

func (p Platform) env() []string {
	env := []string{"CGO_ENABLED=0", "GOOS=" + p.OS, "GOARCH=" + p.Arch}
	if p.Arch == "arm" {
		env = append(env, "GOARM="+strings.TrimPrefix(p.Variant, "v"))
	}
	return env
}

// Builder builds programs. Fields must not change while a build runs.
type Builder struct {
	// Root is the root of the source tree.
	Root string
	// Version is linked into the programs and set as a label.
	Version string
}

// Index builds the program for all platforms and returns a multi-platform image.
func (b Builder) Index(ctx context.Context, p Program, platforms []Platform) (v1.ImageIndex, error) {
	if len(platforms) == 0 {
		return nil, errors.New("no platform given")
	}
	var images []built
	for _, pf := range platforms {
		img, err := b.Image(ctx, p, pf)
		if err != nil {
			return nil, err
		}
		images = append(images, built{img, pf})
	}
	return indexOf(images), nil
}

// built is an image and what it is for.
type built struct {
	image    v1.Image
	platform Platform
}

func indexOf(images []built) v1.ImageIndex {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, i := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: i.image,
			Descriptor: v1.Descriptor{
				MediaType: types.OCIManifestSchema1,
				Platform:  &v1.Platform{OS: i.platform.OS, Architecture: i.platform.Arch, Variant: i.platform.Variant},
			},
		})
	}
	return index
}

// Image builds the program for one platform.
func (b Builder) Image(ctx context.Context, p Program, pf Platform) (v1.Image, error) {
	binary, err := b.compile(ctx, p, pf)
	if err != nil {
		return nil, err
	}
	layer, err := rootFS(p.Name, binary)
	if err != nil {
		return nil, fmt.Errorf("layer of %s: %w", p.Name, err)
	}
	return b.assemble(p.Name, layer, pf, func(c *v1.Config) {
		c.Entrypoint, c.WorkingDir = []string{"/" + p.Name}, "/"
		c.ExposedPorts = make(map[string]struct{}, len(p.Ports))
		for _, port := range p.Ports {
			c.ExposedPorts[port] = struct{}{}
		}
	})
}

// assemble makes an image of one layer; set completes its configuration.
func (b Builder) assemble(name string, layer v1.Layer, pf Platform, set func(*v1.Config)) (v1.Image, error) {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, layer)
	if err != nil {
		return nil, fmt.Errorf("image of %s: %w", name, err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image of %s: %w", name, err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = pf.OS, pf.Arch, pf.Variant
	cfg.Config.Labels = map[string]string{
		"org.opencontainers.image.title":   name,
		"org.opencontainers.image.version": b.Version,
	}
	set(&cfg.Config)
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return nil, fmt.Errorf("image of %s: %w", name, err)
	}
	return img, nil
}

// compile returns the path-independent, stripped, static binary.
func (b Builder) compile(ctx context.Context, p Program, pf Platform) ([]byte, error) {
	dir, err := os.MkdirTemp("", "breakwater-image-")
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", p.Name, err)
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, p.Name)
	// Without its trace pages gRPC needs no templates, and the linker can leave out
	// methods that nobody calls: a sixth of a program.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace",
		"-ldflags", "-s -w -buildid= -X main.version="+b.Version, "-o", out, p.Package)
	cmd.Dir = filepath.Join(b.Root, p.Dir)
	cmd.Env = append(os.Environ(), pf.env()...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s for %s: %w\n%s", p.Name, pf, err, text)
	}
	binary, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", p.Name, err)
	}
	return binary, nil
}

// rootFS is the whole file system of an image: the program and a place for
// temporary files, all with the same old date.
func rootFS(name string, binary []byte) (v1.Layer, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	entries := []tar.Header{
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(binary))},
	}
	for i := range entries {
		entries[i].ModTime = time.Unix(0, 0)
		entries[i].Format = tar.FormatPAX
		if err := tw.WriteHeader(&entries[i]); err != nil {
			return nil, err
		}
	}
	if _, err := tw.Write(binary); err != nil {
		return nil, err
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// Command images builds the container images and pushes them to a registry, or
// writes them as OCI layouts. It needs the Go toolchain and no container engine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-iot/breakwater/deploy/internal/image"
)

type cli struct {
	Root     string   `help:"Root of the source tree." default:"." type:"existingdir"`
	Version  string   `help:"Version to build in and to use as tag." default:"dev"`
	Platform []string `help:"Platforms to build." default:"linux/amd64,linux/arm64,linux/arm/v7"`
	Only     []string `help:"Programs to build; all if not given."`
	Node     bool     `help:"Also make the sample module of the stock Node SDK, for this machine's platform."`

	Push pushCmd `cmd:"" help:"Build and push to a registry."`
	Save saveCmd `cmd:"" help:"Build and write one OCI layout folder a program."`

	Archive archiveCmd `cmd:"" help:"Build the images of docker-compose.yml for this machine and write them as an archive for docker load."`
}

type pushCmd struct {
	Registry string `arg:"" help:"Registry and path prefix, as in localhost:5000/breakwater. Credentials come from the Docker configuration file."`
}

type saveCmd struct {
	Dir string `arg:"" help:"Folder to write to." type:"path"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	k := kong.Parse(&c, kong.Name("images"), kong.Description("Builds Breakwater's container images."),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(&c))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func (p *pushCmd) Run(ctx context.Context, c *cli) error {
	return c.each(ctx, func(program string, index v1.ImageIndex) error {
		ref, err := name.ParseReference(p.Registry + "/" + program + ":" + c.Version)
		if err != nil {
			return fmt.Errorf("image name: %w", err)
		}
		if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
		return report(ref.String(), index)
	})
}

func (s *saveCmd) Run(ctx context.Context, c *cli) error {
	return c.each(ctx, func(program string, index v1.ImageIndex) error {
		dir := filepath.Join(s.Dir, program)
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("save %s: %w", program, err)
		}
		if _, err := layout.Write(dir, index); err != nil {
			return fmt.Errorf("save %s: %w", program, err)
		}
		return report(dir, index)
	})
}

// each builds the chosen programs one after the other.
func (c *cli) each(ctx context.Context, use func(program string, index v1.ImageIndex) error) error {
	var platforms []image.Platform
	for _, s := range c.Platform {
		p, err := image.ParsePlatform(s)
		if err != nil {
			return err
		}
		platforms = append(platforms, p)
	}
	programs := image.Programs()
	for _, want := range c.Only {
		if !slices.ContainsFunc(programs, func(p image.Program) bool { return p.Name == want }) {
			return fmt.Errorf("no program %q", want)
		}
	}
	b := image.Builder{Root: c.Root, Version: c.Version}
	for _, p := range programs {
		if len(c.Only) > 0 && !slices.Contains(c.Only, p.Name) {
			continue
		}
		index, err := b.Index(ctx, p, platforms)
		if err != nil {
			return err
		}
		if err := use(p.Name, index); err != nil {
			return err
		}
	}
	if !c.Node {
		return nil
	}
	tree, err := image.NodeModule(ctx, c.Root)
	if err != nil {
		return err
	}
	index, err := b.TreeIndex(tree)
	if err != nil {
		return err
	}
	return use(tree.Name, index)
}

// report prints where an image went and the compressed size for each platform.
func report(where string, index v1.ImageIndex) error {
	m, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	var sizes []string
	for _, d := range m.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			return fmt.Errorf("read image: %w", err)
		}
		im, err := img.Manifest()
		if err != nil {
			return fmt.Errorf("read image: %w", err)
		}
		size := im.Config.Size
		for _, l := range im.Layers {
			size += l.Size
		}
		sizes = append(sizes, fmt.Sprintf("%s %.1f MB", d.Platform, float64(size)/1e6))
	}
	digest, err := index.Digest()
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	fmt.Printf("%s %s (%s)\n", where, digest, strings.Join(sizes, ", "))
	return nil
}

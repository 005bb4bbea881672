package image_test

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/deploy/internal/image"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestEdgeBoxHasWhatEdgedStarts: edged looks for its helpers beside itself.
func TestEdgeBoxHasWhatEdgedStarts(t *testing.T) {
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"edgebox", "edged", "edged-init", "edged-log", "edged-verify", "edgectl", "iothub"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := image.EdgeBox(t.Context(), "../../..", bin, t.TempDir())
	if errors.Is(err, exec.ErrNotFound) || err != nil && strings.Contains(err.Error(), "no CNI plugins") {
		t.Skip("this machine cannot run containers:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"edged", "edged-init", "edged-log", "edged-verify"} {
		if tree.Files["/bin/"+name].Source != filepath.Join(bin, name) {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestParsePlatform(t *testing.T) {
	tests := []struct {
		in   string
		want image.Platform
		bad  bool
	}{
		{in: "linux/amd64", want: image.Platform{OS: "linux", Arch: "amd64"}},
		{in: "linux/arm/v7", want: image.Platform{OS: "linux", Arch: "arm", Variant: "v7"}},
		{in: "linux/arm", bad: true},
		{in: "windows/amd64", bad: true},
		{in: "linux", bad: true},
		{in: "linux/", bad: true},
		{in: "", bad: true},
		{in: "linux/arm/v7/x", bad: true},
	}
	for _, tt := range tests {
		got, err := image.ParsePlatform(tt.in)
		if (err != nil) != tt.bad || got != tt.want {
			t.Errorf("ParsePlatform(%q) = %v, %v", tt.in, got, err)
		}
		if err == nil && got.String() != tt.in {
			t.Errorf("String() = %q, want %q", got, tt.in)
		}
	}
}

func program(t *testing.T, source string) (image.Builder, image.Program) {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module example.test/hello\n\ngo 1.26\n",
		"main.go": source,
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return image.Builder{Root: root, Version: "1.2.3"}, image.Program{Name: "hello", Package: "."}
}

func TestImageHoldsOnlyTheProgramAndItsTemporaryFolder(t *testing.T) {
	t.Setenv("GOWORK", "off")
	b, p := program(t, "package main\n\nvar version string\n\nfunc main() { println(version) }\n")
	platforms := []image.Platform{{OS: "linux", Arch: "amd64"}, {OS: "linux", Arch: "arm", Variant: "v7"}}
	index, err := b.Index(context.Background(), p, platforms)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 2 || manifest.Manifests[1].Platform.Variant != "v7" {
		t.Fatalf("index lists %+v", manifest.Manifests)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, img), []string{"tmp/", "hello"}; !slices.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.Config.Entrypoint, []string{"/hello"}) {
		t.Errorf("entrypoint %v", cfg.Config.Entrypoint)
	}
}

func TestSameSourceGivesSameDigest(t *testing.T) {
	t.Setenv("GOWORK", "off")
	const source = "package main\n\nvar version string\n\nfunc main() { println(version) }\n"
	var digests []v1.Hash
	for range 2 { // two different folders
		b, p := program(t, source)
		img, err := b.Image(context.Background(), p, image.Platform{OS: "linux", Arch: "amd64"})
		if err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d)
	}
	if digests[0] != digests[1] {
		t.Errorf("digests differ: %v", digests)
	}
}

func TestCompileErrorNamesTheProgramAndShowsTheCompilersWords(t *testing.T) {
	t.Setenv("GOWORK", "off")
	b, p := program(t, "package main\n\nfunc main() { undefinedName() }\n")
	_, err := b.Image(context.Background(), p, image.Platform{OS: "linux", Arch: "amd64"})
	if err == nil || !strings.Contains(err.Error(), "build hello") || !strings.Contains(err.Error(), "undefinedName") {
		t.Errorf("error %v", err)
	}
}

func names(t *testing.T, img v1.Image) []string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers %v, %v", layers, err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var list []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, h.Name)
	}
}

package image_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/breakwater-iot/breakwater/deploy/internal/image"
)

// plant writes files below a new folder.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// theOnly returns the only image of an index.
func theOnly(t *testing.T, index v1.ImageIndex) v1.Image {
	t.Helper()
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestTreeHoldsFilesTextsAndFolders(t *testing.T) {
	root := plant(t, map[string]string{
		"tool": "program", "app/a.js": "a", "app/deep/b.js": "bb", "app/notes.md": "no", "lib.so.1.2": "library",
	})
	if err := os.Chmod(filepath.Join(root, "tool"), 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"lib.so.1": "lib.so.1.2", "app/loop.js": "."} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	tree := image.Tree{
		Name: "mod",
		Files: map[string]image.Content{
			"/bin/tool":     {Source: filepath.Join(root, "tool")},
			"/lib/lib.so.1": {Source: filepath.Join(root, "lib.so.1")},
			"/app":          {Source: filepath.Join(root, "app"), Take: func(n string) bool { return !strings.HasSuffix(n, ".md") }},
			"/etc/hosts":    {Text: "text"},
		},
		Command: []string{"/bin/tool", "a.js"}, WorkingDir: "/app",
	}
	b := image.Builder{Version: "1.2.3"}
	index, err := b.TreeIndex(tree)
	if err != nil {
		t.Fatal(err)
	}
	img := theOnly(t, index)
	want := []string{
		"app/ 755 ", "app/deep/ 755 ", "bin/ 755 ", "etc/ 755 ", "lib/ 755 ", "tmp/ 1777 ",
		"app/a.js 644 a", "app/deep/b.js 644 bb", "bin/tool 755 program", "etc/hosts 644 text", "lib/lib.so.1 644 library",
	}
	if got := contents(t, img); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	host := image.HostPlatform()
	if cfg.Architecture != host.Arch || cfg.Config.WorkingDir != "/app" || !slices.Equal(cfg.Config.Entrypoint, tree.Command) ||
		cfg.Config.Labels["org.opencontainers.image.version"] != "1.2.3" {
		t.Errorf("config %+v", cfg)
	}
	again, err := b.TreeIndex(tree)
	if err != nil {
		t.Fatal(err)
	}
	first, err1 := index.Digest()
	second, err2 := again.Digest()
	if err := errors.Join(err1, err2); err != nil || first != second {
		t.Errorf("digests %s and %s differ: %v", first, second, err)
	}
}

func TestTreeOfWhatIsNotThereFails(t *testing.T) {
	tree := image.Tree{Name: "mod", Files: map[string]image.Content{"/x": {Source: filepath.Join(t.TempDir(), "none")}}}
	if _, err := (image.Builder{}).TreeIndex(tree); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := image.NodeModule(t.Context(), t.TempDir()); err == nil {
		t.Error("a module without packages")
	}
}

// contents lists "name mode text" of the image's only layer.
func contents(t *testing.T, img v1.Image) (out []string) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s belongs to %d:%d since %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		out = append(out, strings.Join([]string{h.Name, octal(h.Mode), string(text)}, " "))
	}
}

func octal(n int64) string {
	var out string
	for ; n > 0; n /= 8 {
		out = string(rune('0'+n%8)) + out
	}
	return out
}

func TestLibrariesOfAProgram(t *testing.T) {
	const text = "\tlinux-vdso.so.1 (0x00007f45)\n\tlibdl.so.2 => /lib/x86_64-linux-gnu/libdl.so.2 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"
	if got, want := image.ParseLdd(text), []string{"/lib/x86_64-linux-gnu/libdl.so.2", "/lib64/ld-linux-x86-64.so.2"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if got := image.ParseLdd("\tstatically linked\n"); got != nil {
		t.Errorf("got %v", got)
	}
}

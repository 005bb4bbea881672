package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Tree is a program that is not one static binary: files of this machine, put
// together to a file system for this machine's platform.
type Tree struct {
	// Name is the last part of the repository name.
	Name string
	// Files are contents of the image by their absolute path in it.
	Files map[string]Content
	// Command is started in WorkingDir.
	Command    []string
	WorkingDir string
}

// Content is what stands at a path of a Tree: the text or, if Source is set, the
// file or folder of that name on this machine. Symbolic links at Source are
// followed, those below it left out.
type Content struct {
	Source string
	Text   string
	// Take decides, if set, which files below a folder are taken; it gets paths
	// relative to it.
	Take func(name string) bool
}

// HostPlatform is the platform of this machine.
func HostPlatform() Platform {
	p := Platform{OS: "linux", Arch: runtime.GOARCH}
	if p.Arch == "arm" {
		p.Variant = "v7"
	}
	return p
}

// NodeModule is the sample module that the stock Node SDK makes: this machine's
// own Node with the libraries that it is linked to, the module and its npm
// packages, which must have been installed.
func NodeModule(ctx context.Context, root string) (Tree, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return Tree{}, fmt.Errorf("sample module: %w", err)
	}
	if node, err = filepath.EvalSymlinks(node); err != nil {
		return Tree{}, fmt.Errorf("sample module: %w", err)
	}
	libraries, err := linkedTo(ctx, node)
	if err != nil {
		return Tree{}, fmt.Errorf("sample module: %w", err)
	}
	sample := filepath.Join(root, "deploy", "samples", "module-node")
	packages := filepath.Join(sample, "node_modules")
	if _, err := os.Stat(packages); err != nil {
		return Tree{}, fmt.Errorf("sample module: its npm packages are not installed: %w", err)
	}
	t := Tree{
		Name: "module-node",
		Files: map[string]Content{
			"/bin/node":          {Source: node},
			"/app/index.js":      {Source: filepath.Join(sample, "index.js")},
			"/app/package.json":  {Source: filepath.Join(sample, "package.json")},
			"/app/node_modules":  {Source: packages, Take: isCode},
			"/etc/nsswitch.conf": {Text: "hosts: files dns\n"},
			"/etc/passwd":        {Text: "root:x:0:0:root:/:/bin/false\n"},
		},
		Command: []string{"/bin/node", "index.js"}, WorkingDir: "/app",
	}
	for _, lib := range libraries {
		t.Files[lib] = Content{Source: lib}
	}
	return t, nil
}

// isCode leaves out what only developers of a package need.
func isCode(name string) bool {
	return slices.Contains([]string{".js", ".cjs", ".mjs", ".json"}, path.Ext(name))
}

// linkedTo lists the loader and the shared libraries of a program, by the paths
// under which the loader looks for them.
func linkedTo(ctx context.Context, program string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", program, err)
	}
	libraries := parseLdd(string(out))
	if len(libraries) == 0 {
		return nil, fmt.Errorf("libraries of %s: none found", program)
	}
	return libraries, nil
}

// parseLdd reads lines "name => path (address)" and "path (address)".
func parseLdd(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		for _, f := range strings.Fields(line) {
			if strings.HasPrefix(f, "/") {
				out = append(out, f)
			}
		}
	}
	return out
}

// TreeIndex returns the tree as an image of one platform, this machine's.
func (b Builder) TreeIndex(t Tree) (v1.ImageIndex, error) {
	var buf bytes.Buffer
	if err := t.write(&buf); err != nil {
		return nil, fmt.Errorf("layer of %s: %w", t.Name, err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestSpeed), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("layer of %s: %w", t.Name, err)
	}
	pf := HostPlatform()
	img, err := b.assemble(t.Name, layer, pf, func(c *v1.Config) {
		c.Entrypoint, c.WorkingDir = t.Command, t.WorkingDir
		c.Env = []string{"PATH=/bin", "HOME=/"}
	})
	if err != nil {
		return nil, err
	}
	return indexOf([]built{{img, pf}}), nil
}

// write writes the tree as a tar archive: folders before what is in them, sorted,
// all with the same old date and root's.
func (t Tree) write(w io.Writer) error {
	files := map[string]Content{}
	for name, c := range t.Files {
		if err := expand(files, name, c); err != nil {
			return err
		}
	}
	folders := map[string]bool{"tmp/": true}
	for name := range files {
		for d := path.Dir(strings.TrimPrefix(name, "/")); d != "."; d = path.Dir(d) {
			folders[d+"/"] = true
		}
	}
	tw := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(folders)) {
		h := tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if name == "tmp/" {
			h.Mode = 0o1777
		}
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := writeFile(tw, strings.TrimPrefix(name, "/"), files[name]); err != nil {
			return err
		}
	}
	return tw.Close()
}

// expand puts a file, or the regular files of a folder, into files.
func expand(files map[string]Content, name string, c Content) error {
	if c.Source == "" {
		files[name] = c
		return nil
	}
	st, err := os.Stat(c.Source)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		files[name] = c
		return nil
	}
	return filepath.WalkDir(c.Source, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(c.Source, p)
		if err != nil {
			return err
		}
		if rel = filepath.ToSlash(rel); c.Take == nil || c.Take(rel) {
			files[path.Join(name, rel)] = Content{Source: p}
		}
		return nil
	})
}

func writeFile(tw *tar.Writer, name string, c Content) (err error) {
	h := tar.Header{
		Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(c.Text)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	}
	var body io.Reader = strings.NewReader(c.Text)
	if c.Source != "" {
		f, err := os.Open(c.Source)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		body, h.Size = f, st.Size()
		if st.Mode()&0o111 != 0 {
			h.Mode = 0o755
		}
	}
	if err := tw.WriteHeader(&h); err != nil {
		return err
	}
	_, err = io.Copy(tw, body)
	return err
}

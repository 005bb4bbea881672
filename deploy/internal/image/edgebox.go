package image

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// EdgeBox is an edge device in one container, for developers: containerd, runc,
// the CNI plugins and iptables of this machine with the libraries that they are
// linked to, the programs in bin, which must have been built, and the images in
// layouts (a folder of OCI layouts), which it offers in a registry of its own.
func EdgeBox(ctx context.Context, root, bin, layouts string) (Tree, error) {
	t := Tree{
		Name: "edgebox",
		Files: map[string]Content{
			"/manifest.json":     {Source: filepath.Join(root, "deploy", "manifests", "development.json")},
			"/images":            {Source: layouts},
			"/etc/nsswitch.conf": {Text: "hosts: files dns\n"},
			"/etc/passwd":        {Text: "root:x:0:0:root:/:/bin/false\n"},
			"/etc/group":         {Text: "root:x:0:\n"},
		},
		Command: []string{"/bin/edgebox"}, WorkingDir: "/",
	}
	for _, name := range []string{"edgebox", "edged", "edged-init", "edged-log", "edged-verify", "edgectl", "iothub"} {
		t.Files["/bin/"+name] = Content{Source: filepath.Join(bin, name)}
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "iptables", "ip6tables"} {
		program, err := findProgram(name)
		if err != nil {
			return Tree{}, fmt.Errorf("edgebox: %w", err)
		}
		t.Files["/bin/"+name] = Content{Source: program}
	}
	plugins, err := filepath.Glob("/usr/lib/cni/*")
	if err != nil || len(plugins) == 0 {
		return Tree{}, fmt.Errorf("edgebox: no CNI plugins in /usr/lib/cni")
	}
	for _, p := range plugins {
		t.Files[p] = Content{Source: p}
	}
	// What iptables loads by itself, where it looks for it.
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil || len(extensions) == 0 {
		return Tree{}, fmt.Errorf("edgebox: no extensions of iptables in /usr/lib/*/xtables")
	}
	for _, p := range extensions {
		t.Files[p] = Content{Source: p}
	}
	if err := t.addLibraries(ctx); err != nil {
		return Tree{}, fmt.Errorf("edgebox: %w", err)
	}
	return t, nil
}

// findProgram looks where Debian keeps programs for root, too.
func findProgram(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %s: %w", name, exec.ErrNotFound)
}

// addLibraries adds the shared libraries of all programs of the tree.
func (t *Tree) addLibraries(ctx context.Context) error {
	var programs []string
	for name, c := range t.Files {
		if c.Source != "" && (strings.HasPrefix(name, "/bin/") || strings.HasPrefix(name, "/usr/lib/")) {
			programs = append(programs, c.Source)
		}
	}
	for _, p := range programs {
		static, err := isStatic(p)
		if err != nil {
			return err
		}
		if static {
			continue
		}
		libraries, err := linkedTo(ctx, p)
		if err != nil {
			return err
		}
		for _, lib := range libraries {
			t.Files[lib] = Content{Source: lib}
		}
	}
	return nil
}

// isStatic tells whether a program needs no shared libraries.
func isStatic(program string) (bool, error) {
	f, err := elf.Open(program)
	if err != nil {
		return false, fmt.Errorf("program %s: %w", program, err)
	}
	defer func() { _ = f.Close() }() // only read
	needed, err := f.ImportedLibraries()
	if err != nil {
		return false, fmt.Errorf("program %s: %w", program, err)
	}
	return len(needed) == 0, nil
}

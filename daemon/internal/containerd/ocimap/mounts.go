package ocimap

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

// mounts adds what the module sees besides its image. A mount of the module's own
// replaces one of ours at the same place.
func (b *builder) mounts() error {
	b.sharedMemory()
	etc := b.in.Host.Etc
	for _, m := range [][2]string{{etc.Hosts, "/etc/hosts"}, {etc.Hostname, "/etc/hostname"}, {etc.Resolv, "/etc/resolv.conf"}} {
		b.put(specs.Mount{Destination: m[1], Type: "bind", Source: m[0], Options: []string{"rbind", "rprivate", "rw"}})
	}
	var wanted []specs.Mount
	for i, bind := range b.host.Binds {
		m, err := b.bind(bind)
		if err != nil {
			return invalid(indexed("HostConfig.Binds", i), "%v", err)
		}
		wanted = append(wanted, m)
	}
	for i, mount := range b.host.Mounts {
		m, err := b.mount(mount, indexed("HostConfig.Mounts", i))
		if err != nil {
			return invalid(indexed("HostConfig.Mounts", i), "%v", err)
		}
		wanted = append(wanted, m)
	}
	for _, target := range slices.Sorted(maps.Keys(b.host.Tmpfs)) {
		if !path.IsAbs(target) {
			return invalid("HostConfig.Tmpfs", "%q is not an absolute path", target)
		}
		options := []string{"nosuid", "noexec", "nodev"}
		if o := b.host.Tmpfs[target]; o != "" {
			options = append(options, strings.Split(o, ",")...)
		}
		wanted = append(wanted, specs.Mount{Destination: path.Clean(target), Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	seen := make(map[string]bool)
	for _, m := range wanted {
		if m.Destination == "/" {
			return invalid("HostConfig", "a mount on / would hide the image")
		}
		if seen[m.Destination] {
			return invalid("HostConfig", "two mounts on %s", m.Destination)
		}
		seen[m.Destination] = true
	}
	anonymous, err := b.anonymous(seen)
	if err != nil {
		return err
	}
	wanted = append(wanted, anonymous...)
	// Outer mounts come first, or they would hide the inner ones.
	slices.SortStableFunc(wanted, func(x, y specs.Mount) int {
		return strings.Count(x.Destination, "/") - strings.Count(y.Destination, "/")
	})
	for _, m := range wanted {
		b.put(m)
	}
	return nil
}

// put adds a mount after removing one at the same place.
func (b *builder) put(m specs.Mount) {
	b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(o specs.Mount) bool { return o.Destination == m.Destination })
	b.spec.Mounts = append(b.spec.Mounts, m)
}

func (b *builder) sharedMemory() {
	// The file system shows the queues of the IPC namespace it is mounted in, so it
	// serves the host's too, also on a host that has none at /dev/mqueue.
	b.put(specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	if b.host.IpcMode == "host" {
		b.put(specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "nosuid", "noexec", "nodev"}})
		return
	}
	size := b.host.ShmSize
	if size <= 0 {
		size = 64 << 20
	}
	if b.host.IpcMode != "none" {
		b.put(specs.Mount{
			Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)},
		})
	}
}

// bind reads "source:target[:options]" and "target".
func (b *builder) bind(s string) (specs.Mount, error) {
	parts := strings.Split(s, ":")
	var source, target, options string
	switch len(parts) {
	case 1:
		target = parts[0]
	case 2, 3:
		source, target = parts[0], parts[1]
		if len(parts) == 3 {
			options = parts[2]
		}
		if source == "" {
			return specs.Mount{}, fmt.Errorf("%q has no source", s)
		}
	default:
		return specs.Mount{}, fmt.Errorf("%q is not source:target:options", s)
	}
	if !path.IsAbs(target) {
		return specs.Mount{}, fmt.Errorf("target %q is not an absolute path", target)
	}
	mode, fill, propagation := "rw", true, "rprivate"
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "ro", "rw":
			mode = o
		case "nocopy":
			fill = false
		case "", "z", "Z", "consistent", "cached", "delegated":
		case "shared", "rshared", "slave", "rslave", "private", "rprivate":
			propagation = o
		default:
			return specs.Mount{}, fmt.Errorf("option %q of %q", o, s)
		}
	}
	target = path.Clean(target)
	m := specs.Mount{Destination: target, Type: "bind", Options: []string{"rbind", propagation, mode}}
	switch {
	case path.IsAbs(source):
		m.Source = path.Clean(source)
		b.plan.Record.Directories = append(b.plan.Record.Directories, m.Source)
	case source == "":
		m.Source = b.scratch(target, fill)
	default:
		var err error
		if m.Source, err = b.volume(source, target, fill); err != nil {
			return specs.Mount{}, err
		}
	}
	b.propagate(propagation)
	return m, nil
}

// propagate makes the root pass mounts on, where a mount is to be shared.
func (b *builder) propagate(p string) {
	switch {
	case strings.HasSuffix(p, "shared"):
		b.spec.Linux.RootfsPropagation = "rshared"
	case strings.HasSuffix(p, "slave") && b.spec.Linux.RootfsPropagation == "":
		b.spec.Linux.RootfsPropagation = "rslave"
	}
}

func (b *builder) mount(m createopts.Mount, option string) (specs.Mount, error) {
	if !path.IsAbs(m.Target) {
		return specs.Mount{}, fmt.Errorf("Target %q is not an absolute path", m.Target) //nolint:staticcheck // the name of the option
	}
	mode := "rw"
	if m.ReadOnly {
		mode = "ro"
	}
	out := specs.Mount{Destination: path.Clean(m.Target), Type: "bind"}
	switch m.Type {
	case "bind":
		if !path.IsAbs(m.Source) {
			return out, fmt.Errorf("Source %q is not an absolute path", m.Source)
		}
		out.Source = path.Clean(m.Source)
		bind, propagation := "rbind", "rprivate"
		if o := m.BindOptions; o != nil {
			if o.NonRecursive {
				bind = "bind"
			}
			if o.Propagation != "" {
				propagation = o.Propagation
			}
		}
		if !slices.Contains([]string{"shared", "rshared", "slave", "rslave", "private", "rprivate"}, propagation) {
			return out, fmt.Errorf("Propagation %q", propagation) //nolint:staticcheck // the name of the option
		}
		out.Options = []string{bind, propagation, mode}
		b.propagate(propagation)
		b.plan.Sources = append(b.plan.Sources, Source{Path: out.Source, Option: option + ".Source"})
	case "volume":
		fill := true
		if o := m.VolumeOptions; o != nil {
			fill = !o.NoCopy
			if d := o.DriverConfig; d != nil && (d.Name != "" && d.Name != "local" || len(d.Options) > 0) {
				return out, fmt.Errorf("VolumeOptions.DriverConfig: only plain local volumes are supported")
			}
		}
		out.Options = []string{"rbind", "rprivate", mode}
		if m.Source == "" {
			out.Source = b.scratch(out.Destination, fill)
			return out, nil
		}
		var err error
		out.Source, err = b.volume(m.Source, out.Destination, fill)
		return out, err
	case "tmpfs":
		out.Type, out.Source = "tmpfs", "tmpfs"
		out.Options = []string{"nosuid", "noexec", "nodev", mode}
		if o := m.TmpfsOptions; o != nil && o.SizeBytes > 0 {
			out.Options = append(out.Options, fmt.Sprintf("size=%d", o.SizeBytes))
		}
		if o := m.TmpfsOptions; o != nil && o.Mode != 0 {
			out.Options = append(out.Options, fmt.Sprintf("mode=%o", o.Mode))
		}
	default:
		return out, fmt.Errorf("Type %q is not bind, volume or tmpfs", m.Type) //nolint:staticcheck // the name of the option
	}
	return out, nil
}

var volumeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

func (b *builder) volume(name, target string, fill bool) (string, error) {
	if len(name) > 255 || !volumeName.MatchString(name) {
		return "", fmt.Errorf("%q is neither an absolute path nor a volume's name", name)
	}
	dir := filepath.Join(b.in.Host.VolumesDir, name)
	b.plan.Record.Volumes = append(b.plan.Record.Volumes, Volume{Path: dir, Target: target, Fill: fill})
	return dir, nil
}

// scratch is an anonymous volume: it lives as long as the module.
func (b *builder) scratch(target string, fill bool) string {
	sum := sha256.Sum256([]byte(target))
	dir := filepath.Join(b.in.Host.ScratchDir, b.in.Name, hex.EncodeToString(sum[:8]))
	b.plan.Record.Volumes = append(b.plan.Record.Volumes, Volume{Path: dir, Target: target, Fill: fill})
	return dir
}

// anonymous makes volumes for the places that image and options declare, unless
// something is mounted there.
func (b *builder) anonymous(taken map[string]bool) ([]specs.Mount, error) {
	declared := make(map[string]struct{})
	maps.Copy(declared, b.in.Image.Volumes)
	maps.Copy(declared, b.opts.Volumes)
	var out []specs.Mount
	for _, target := range slices.Sorted(maps.Keys(declared)) {
		if !path.IsAbs(target) || path.Clean(target) == "/" {
			return nil, invalid("Volumes", "%q is not the absolute path of a directory", target)
		}
		if target = path.Clean(target); !taken[target] {
			taken[target] = true
			out = append(out, specs.Mount{
				Destination: target, Type: "bind", Source: b.scratch(target, true),
				Options: []string{"rbind", "rprivate", "rw"},
			})
		}
	}
	return out, nil
}

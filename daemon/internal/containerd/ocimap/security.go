package ocimap

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	cdi "tags.cncf.io/container-device-interface/pkg/parser"
)

// defaultCaps is what Docker gives a container.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD",
	"CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP",
	"CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// capabilities computes the set as Docker does: ALL in CapDrop removes the
// defaults, a name in both lists stays.
func (b *builder) capabilities() error {
	add, err := capNames("HostConfig.CapAdd", b.host.CapAdd)
	if err != nil {
		return err
	}
	drop, err := capNames("HostConfig.CapDrop", b.host.CapDrop)
	if err != nil {
		return err
	}
	var set []string
	dropped := func(c string) bool { return slices.Contains(drop, c) }
	switch {
	case b.host.Privileged:
		set = slices.Clone(b.in.Host.Capabilities)
	case slices.Contains(add, "ALL"):
		set = slices.DeleteFunc(slices.Clone(b.in.Host.Capabilities), dropped)
	case slices.Contains(drop, "ALL"):
		set = add
	default:
		set = append(slices.DeleteFunc(slices.Clone(defaultCaps), dropped), add...)
	}
	slices.Sort(set)
	set = slices.Compact(set)
	// Not inheritable and not ambient: a process that leaves root has none.
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
	return nil
}

func capNames(path string, names []string) ([]string, error) {
	var out []string
	for i, name := range names {
		c := strings.ToUpper(strings.TrimSpace(name))
		if c != "ALL" {
			c = "CAP_" + strings.TrimPrefix(c, "CAP_")
			if !slices.Contains(cap.Known(), c) {
				return nil, invalid(indexed(path, i), "there is no capability %q", name)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
	"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
	"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// security confines the module, or not.
func (b *builder) security() error {
	l := b.spec.Linux
	l.MaskedPaths, l.ReadonlyPaths = maskedPaths, readonlyPaths
	if p := b.host.MaskedPaths; p != nil {
		l.MaskedPaths = *p
	}
	if p := b.host.ReadonlyPaths; p != nil {
		l.ReadonlyPaths = *p
	}
	confined := true
	b.spec.Process.ApparmorProfile = b.in.Host.AppArmor
	for i, opt := range b.host.SecurityOpt {
		path := indexed("HostConfig.SecurityOpt", i)
		key, value, _ := cutAny(opt, "=:")
		switch key {
		case "no-new-privileges":
			on := value == "" || value == "true"
			if !on && value != "false" {
				return invalid(path, "%q", opt)
			}
			b.spec.Process.NoNewPrivileges = on
		case "seccomp":
			switch value {
			case "unconfined":
				confined = false
			case "builtin":
			default:
				return invalid(path, "own seccomp profiles are not supported")
			}
		case "apparmor":
			if value == "unconfined" {
				value = ""
			}
			b.spec.Process.ApparmorProfile = value
		case "systempaths":
			if value != "unconfined" {
				return invalid(path, "%q", opt)
			}
			l.MaskedPaths, l.ReadonlyPaths = nil, nil
		case "label":
			b.warn(path, "ignored: SELinux labels are not supported")
		default:
			return invalid(path, "%q is not supported", opt)
		}
	}
	if b.host.Privileged {
		confined = false
		l.MaskedPaths, l.ReadonlyPaths = nil, nil
		b.spec.Process.ApparmorProfile = ""
		for i, m := range b.spec.Mounts {
			if m.Type == "sysfs" || m.Type == "cgroup" {
				b.spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
			}
		}
	}
	if confined {
		l.Seccomp = seccomp.DefaultProfile(b.spec) // after the capabilities, which it looks at
	}
	return nil
}

func cutAny(s, seps string) (before, after string, found bool) {
	if i := strings.IndexAny(s, seps); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// devices adds device nodes and the cgroup's rules for them.
func (b *builder) devices() error {
	ctx := context.Background() // the options below do no I/O beyond stat
	r := b.spec.Linux.Resources
	if b.host.Privileged {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		all, err := oci.HostDevices()
		if err != nil {
			return invalid("HostConfig.Privileged", "devices of the host: %v", err)
		}
		b.spec.Linux.Devices = all
	} else {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
		if err := oci.WithDefaultUnixDevices(ctx, nil, nil, b.spec); err != nil {
			return invalid("HostConfig.Devices", "%v", err)
		}
	}
	for i, d := range b.host.Devices {
		path := indexed("HostConfig.Devices", i)
		if cdi.IsQualifiedName(d.PathOnHost) {
			if err := b.namedDevice(d, path); err != nil {
				return err
			}
			continue
		}
		perms := d.CgroupPermissions
		if perms == "" {
			perms = "rwm"
		}
		if strings.Trim(perms, "rwm") != "" {
			return invalid(path+".CgroupPermissions", "%q has other letters than r, w and m", perms)
		}
		if !strings.HasPrefix(d.PathOnHost, "/") || d.PathInContainer != "" && !strings.HasPrefix(d.PathInContainer, "/") {
			return invalid(path, "paths must be absolute")
		}
		before := len(b.spec.Linux.Devices)
		if err := oci.WithDevices(d.PathOnHost, d.PathInContainer, perms)(ctx, nil, nil, b.spec); err != nil {
			return invalid(path+".PathOnHost", "%v", err)
		}
		b.dropShadowed(before)
	}
	for i, rule := range b.host.DeviceCgroupRules {
		dev, ok := parseDeviceRule(rule)
		if !ok {
			return invalid(indexed("HostConfig.DeviceCgroupRules", i), "%q is not like \"c 189:* rwm\"", rule)
		}
		r.Devices = append(r.Devices, dev)
	}
	return nil
}

// dropShadowed removes earlier nodes at the places of those from index on, which
// a privileged module has already.
func (b *builder) dropShadowed(from int) {
	all := b.spec.Linux.Devices
	kept := slices.DeleteFunc(slices.Clone(all[:from]), func(o specs.LinuxDevice) bool {
		return slices.ContainsFunc(all[from:], func(n specs.LinuxDevice) bool { return n.Path == o.Path })
	})
	b.spec.Linux.Devices = append(kept, all[from:]...)
}

var deviceRule = regexp.MustCompile(`^([acb]) ([0-9]{1,9}|\*):([0-9]{1,9}|\*) ([rwm]{1,3})$`)

func parseDeviceRule(s string) (specs.LinuxDeviceCgroup, bool) {
	m := deviceRule.FindStringSubmatch(s)
	if m == nil {
		return specs.LinuxDeviceCgroup{}, false
	}
	number := func(s string) *int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil // the star
		}
		return &n
	}
	return specs.LinuxDeviceCgroup{Allow: true, Type: m[1], Major: number(m[2]), Minor: number(m[3]), Access: m[4]}, true
}

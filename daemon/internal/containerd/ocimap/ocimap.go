// Package ocimap says what a module's createOptions mean for its container: it
// turns a Docker create body and an image's configuration into an OCI spec and
// into what the spec cannot say (network, log, directories to make).
//
// It is a pure translation apart from reading device nodes. What a deployment asks
// for and this engine cannot give is refused if the module could notice, and
// otherwise a warning; errors are runtime.ErrInvalid and name the JSON path.
package ocimap

import (
	"fmt"
	"net/netip"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/health"
	"github.com/breakwater-iot/breakwater/daemon/internal/modlog"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

// Input is a module to be created.
type Input struct {
	Name      string
	Namespace string // of the engine; part of the cgroup's path
	Options   createopts.Options
	Image     v1.ImageConfig
	// Healthcheck is the image's; nil if it has none.
	Healthcheck *createopts.Healthcheck
	Host        Host
}

// Host is what the machine and the daemon's configuration contribute.
type Host struct {
	// Etc are the files that become /etc/hosts, /etc/hostname and
	// /etc/resolv.conf.
	Etc network.Files
	// VolumesDir holds the named volumes, ScratchDir the module's anonymous ones.
	VolumesDir, ScratchDir string
	// NetworkName is the module network.
	NetworkName string
	// IPv6 says that the module network has it.
	IPv6 bool
	// Hostname is the host's own.
	Hostname string
	// Capabilities are all that the daemon could hand on.
	Capabilities []string
	// Init is the program for HostConfig.Init, "" where there is none.
	Init string
	// CgroupV2 is the unified hierarchy.
	CgroupV2 bool
	// AppArmor is the profile for modules, "" where there is none.
	AppArmor string
}

// Plan is the module's container.
type Plan struct {
	Spec *specs.Spec
	// User and Groups are names or numbers, to be looked up in the image.
	User   string
	Groups []string
	Labels map[string]string
	Record Record
	// Devices are to be found in CDI specs and added to Spec, last of all.
	Devices []Device
	// Sources are bind sources that must exist already.
	Sources []Source
	// Warnings are options without effect.
	Warnings []createopts.Warning
}

// Record is what later operations on the module need; it is stored with it.
type Record struct {
	Network     Network              `json:"network"`
	Hosts       network.HostSettings `json:"hosts"`
	Log         Log                  `json:"log"`
	Terminal    bool                 `json:"terminal,omitempty"`
	StopSignal  string               `json:"stopSignal"`
	StopTimeout time.Duration        `json:"stopTimeout"`
	Health      *health.Check        `json:"health,omitempty"`
	// Directories are made, if missing, before every start.
	Directories []string `json:"directories,omitempty"`
	Volumes     []Volume `json:"volumes,omitempty"`
}

// NetworkMode is how a module is connected.
type NetworkMode string

// The ways to be connected.
const (
	NetworkBridge NetworkMode = "bridge"
	NetworkHost   NetworkMode = "host"
	NetworkNone   NetworkMode = "none"
)

// Network is the module's place in the module network.
type Network struct {
	Mode NetworkMode `json:"mode"`
	// Address and Address6 are wishes.
	Address  netip.Addr     `json:"address,omitzero"`
	Address6 netip.Addr     `json:"address6,omitzero"`
	MAC      string         `json:"mac,omitempty"`
	Ports    []network.Port `json:"ports,omitempty"`
}

// Log is what is kept of the output.
type Log struct {
	None     bool            `json:"none,omitempty"`
	Settings modlog.Settings `json:"settings"`
}

// Volume is a directory of the daemon's that a module sees. An empty one is
// filled from what the image has at Target if Fill is set.
type Volume struct {
	Path   string `json:"path"`
	Target string `json:"target"`
	Fill   bool   `json:"fill,omitempty"`
}

// Source is a path of the host that an option needs.
type Source struct{ Path, Option string }

// Device is a device by its CDI name, as "vendor.com/class=name", and the option that
// asks for it.
type Device struct{ Name, Option string }

const defaultStopTimeout = 10 * time.Second

// builder collects the plan.
type builder struct {
	in   Input
	opts *createopts.Options
	host *createopts.HostConfig
	plan *Plan
	spec *specs.Spec
}

// Build translates. It keeps no reference to the input's slices and maps that it
// changes.
func Build(in Input) (*Plan, error) {
	b := &builder{in: in, opts: &in.Options, host: &in.Options.HostConfig}
	b.spec = baseSpec(in)
	b.plan = &Plan{Spec: b.spec}
	steps := []func() error{
		b.connect, b.namespaces, b.process, b.limits, b.resources,
		b.capabilities, b.security, b.devices, b.requestedDevices, b.mounts, b.init, b.record, b.healthcheck,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	b.ignored()
	return b.plan, nil
}

func invalid(path, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", runtime.ErrInvalid, path, fmt.Sprintf(format, args...))
}

func (b *builder) warn(path, format string, args ...any) {
	b.plan.Warnings = append(b.plan.Warnings, createopts.Warning{Path: path, Reason: fmt.Sprintf(format, args...)})
}

// baseSpec is what every container has.
func baseSpec(in Input) *specs.Spec {
	noExec := []string{"nosuid", "noexec", "nodev"}
	s := &specs.Spec{
		Version: "1.0.2", // the oldest that has all we use, for old engines
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Cwd: "/"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: noExec},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append([]string{"ro"}, noExec...)},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: append([]string{"ro"}, noExec...)},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + in.Namespace + "/" + in.Name,
			Resources:   &specs.LinuxResources{},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
		},
	}
	return s
}

// ignored warns of options that are known and have no effect.
func (b *builder) ignored() {
	o, h := b.opts, b.host
	for _, w := range []struct {
		asked bool
		path  string
		why   string
	}{
		{h.RestartPolicy != nil && h.RestartPolicy.Name != "" && h.RestartPolicy.Name != "no", "HostConfig.RestartPolicy", "restarting is the agent's job"},
		{h.AutoRemove, "HostConfig.AutoRemove", "would break restarts"},
		{h.KernelMemory != 0, "HostConfig.KernelMemory", "kernels do not support it any more"},
		{o.OpenStdin || o.StdinOnce || o.AttachStdin, "OpenStdin", "modules have no standard input"},
	} {
		if w.asked {
			b.warn(w.path, "ignored: %s", w.why)
		}
	}
}

package ocimap

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/signal"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/breakwater-iot/breakwater/daemon/internal/modlog"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (b *builder) process() error {
	p := b.spec.Process
	p.Args = commandLine(b.in.Image.Entrypoint, b.in.Image.Cmd, b.opts.Entrypoint, b.opts.Cmd)
	if len(p.Args) == 0 {
		return invalid("Cmd", "neither the options nor the image name a command")
	}
	p.Terminal = b.opts.Tty
	b.plan.Record.Terminal = b.opts.Tty
	p.Env = b.environment()
	for i, e := range b.opts.Env {
		if k, _, _ := strings.Cut(e, "="); k == "" {
			return invalid("Env", "entry %d has no name", i)
		}
		if strings.ContainsRune(e, 0) {
			return invalid("Env", "entry %d has a zero byte", i)
		}
	}
	switch {
	case b.opts.WorkingDir != "":
		p.Cwd = b.opts.WorkingDir
	case b.in.Image.WorkingDir != "":
		p.Cwd = b.in.Image.WorkingDir
	}
	if !strings.HasPrefix(p.Cwd, "/") {
		return invalid("WorkingDir", "%q is not an absolute path", p.Cwd)
	}
	b.plan.User = b.in.Image.User
	if b.opts.User != "" {
		b.plan.User = b.opts.User
	}
	b.plan.Groups = slices.Clone(b.host.GroupAdd)
	b.spec.Root.Readonly = b.host.ReadonlyRootfs
	b.labels()
	return nil
}

// commandLine joins entrypoint and command as Docker does: an entrypoint of the
// options also does away with the image's command; [""] means no entrypoint.
func commandLine(imageEntry, imageCmd, entry, cmd []string) []string {
	if len(entry) == 0 {
		if len(cmd) == 0 {
			cmd = imageCmd
		}
		if entry == nil {
			entry = imageEntry
		}
	}
	if len(entry) == 1 && entry[0] == "" {
		entry = nil
	}
	return slices.Concat(entry, cmd)
}

// initTarget is where a module sees the program of HostConfig.Init.
const initTarget = "/sbin/edged-init"

// init lets the module's command run below an init process.
func (b *builder) init() error {
	if b.host.Init == nil || !*b.host.Init {
		return nil
	}
	if b.in.Host.Init == "" {
		return invalid("HostConfig.Init", "the program edged-init is not installed beside edged")
	}
	b.put(specs.Mount{
		Destination: initTarget, Type: "bind", Source: b.in.Host.Init,
		Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev"},
	})
	b.spec.Process.Args = append([]string{initTarget}, b.spec.Process.Args...)
	return nil
}

// environment is the image's, changed by the options'. The first place of a name
// is kept, its last value wins.
func (b *builder) environment() []string {
	env := slices.Clone(b.in.Image.Env)
	set := func(entry string) {
		name, _, hasValue := strings.Cut(entry, "=")
		i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		switch {
		case !hasValue && i >= 0:
			env = slices.Delete(env, i, i+1)
		case !hasValue:
		case i >= 0:
			env[i] = entry
		default:
			env = append(env, entry)
		}
	}
	for _, entry := range b.opts.Env {
		set(entry)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(b.opts.Env, func(e string) bool { return e == name || strings.HasPrefix(e, name+"=") }) ||
			slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	for _, d := range [][2]string{{"PATH", defaultPath}, {"HOSTNAME", b.spec.Hostname}, {"TERM", "xterm"}} {
		if !has(d[0]) && d[1] != "" && (d[0] != "TERM" || b.opts.Tty) {
			env = append(env, d[0]+"="+d[1])
		}
	}
	return env
}

func (b *builder) labels() {
	labels := maps.Clone(b.in.Image.Labels)
	if labels == nil {
		labels = make(map[string]string)
	}
	maps.Copy(labels, b.opts.Labels)
	labels[runtime.LabelOwner] = runtime.Owner
	b.plan.Labels = labels
}

var rlimits = []string{
	"AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE",
	"NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK",
}

// limits sets resource limits. Those without a wish are the engine's own: raising
// one would need a privilege that the engine may not have.
func (b *builder) limits() error {
	var limits []specs.POSIXRlimit
	for i, u := range b.host.Ulimits {
		path := indexed("HostConfig.Ulimits", i)
		name := strings.TrimPrefix(strings.ToUpper(u.Name), "RLIMIT_")
		if !slices.Contains(rlimits, name) {
			return invalid(path, "there is no limit %q", u.Name)
		}
		if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
			return invalid(path, "soft limit %d above hard limit %d", u.Soft, u.Hard)
		}
		if u.Soft < -1 || u.Hard < -1 {
			return invalid(path, "negative limit")
		}
		l := specs.POSIXRlimit{Type: "RLIMIT_" + name, Soft: uint64(u.Soft), Hard: uint64(u.Hard)} // -1 is unlimited
		limits = slices.DeleteFunc(limits, func(o specs.POSIXRlimit) bool { return o.Type == l.Type })
		limits = append(limits, l)
	}
	b.spec.Process.Rlimits = limits
	return nil
}

// record notes what stop and logs need.
func (b *builder) record() error {
	r := &b.plan.Record
	r.StopSignal = "SIGTERM"
	if b.in.Image.StopSignal != "" {
		r.StopSignal = b.in.Image.StopSignal
	}
	if b.opts.StopSignal != "" {
		r.StopSignal = b.opts.StopSignal
	}
	if _, err := signal.ParseSignal(r.StopSignal); err != nil {
		return invalid("StopSignal", "%q is not a signal", r.StopSignal)
	}
	r.StopTimeout = defaultStopTimeout
	if t := b.opts.StopTimeout; t != nil {
		if *t < 0 || *t > 24*60*60 {
			return invalid("StopTimeout", "%d is not between 0 and a day", *t)
		}
		r.StopTimeout = time.Duration(*t) * time.Second
	}
	r.Log.Settings = modlog.Default
	c := b.host.LogConfig
	if c == nil {
		return nil
	}
	switch c.Type {
	case "none":
		r.Log.None = true
	case "", "json-file", "local":
		var err error
		if r.Log.Settings, err = modlog.FromLogConfig(c.Config); err != nil {
			return invalid("HostConfig.LogConfig.Config", "%v", err)
		}
	default:
		b.warn("HostConfig.LogConfig.Type", "%q is not supported, the log is kept in files", c.Type)
	}
	return nil
}

package ocimap

import (
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	minMemory = 6 << 20
	cpuPeriod = 100_000
)

// resources sets the cgroup's limits.
func (b *builder) resources() error {
	if err := b.memory(); err != nil {
		return err
	}
	if err := b.cpu(); err != nil {
		return err
	}
	if err := b.disks(); err != nil {
		return err
	}
	if l := b.host.PidsLimit; l != nil && *l > 0 {
		b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: l}
	}
	if adj := b.host.OomScoreAdj; adj != 0 {
		if adj < -1000 || adj > 1000 {
			return invalid("HostConfig.OomScoreAdj", "%d is not between -1000 and 1000", adj)
		}
		b.spec.Process.OOMScoreAdj = &adj
	}
	return b.sysctls()
}

func (b *builder) memory() error {
	h := b.host
	switch {
	case h.Memory < 0 || h.Memory > 0 && h.Memory < minMemory:
		return invalid("HostConfig.Memory", "%d bytes is less than the least, %d", h.Memory, minMemory)
	case h.MemorySwap > 0 && h.Memory == 0:
		return invalid("HostConfig.MemorySwap", "needs HostConfig.Memory")
	case h.MemorySwap > 0 && h.MemorySwap < h.Memory:
		return invalid("HostConfig.MemorySwap", "includes the memory and cannot be less than it")
	case h.MemorySwap < -1:
		return invalid("HostConfig.MemorySwap", "%d", h.MemorySwap)
	case h.MemoryReservation < 0 || h.Memory > 0 && h.MemoryReservation > h.Memory:
		return invalid("HostConfig.MemoryReservation", "is not between 0 and HostConfig.Memory")
	}
	var m specs.LinuxMemory
	if h.Memory > 0 {
		m.Limit = &h.Memory
	}
	if h.MemorySwap != 0 {
		m.Swap = &h.MemorySwap
	}
	if h.MemoryReservation > 0 {
		m.Reservation = &h.MemoryReservation
	}
	if s := h.MemorySwappiness; s != nil && *s != -1 {
		if *s < 0 || *s > 100 {
			return invalid("HostConfig.MemorySwappiness", "%d is not between 0 and 100", *s)
		}
		if b.in.Host.CgroupV2 {
			b.warn("HostConfig.MemorySwappiness", "ignored: needs cgroup v1")
		} else {
			swappiness := uint64(*s)
			m.Swappiness = &swappiness
		}
	}
	if k := h.OomKillDisable; k != nil && *k {
		if b.in.Host.CgroupV2 {
			b.warn("HostConfig.OomKillDisable", "ignored: needs cgroup v1")
		} else {
			m.DisableOOMKiller = k
		}
	}
	if m != (specs.LinuxMemory{}) {
		b.spec.Linux.Resources.Memory = &m
	}
	return nil
}

func (b *builder) cpu() error {
	h := b.host
	for _, v := range []struct {
		path string
		n    int64
		min  int64
	}{
		{"HostConfig.NanoCpus", h.NanoCpus, 0}, {"HostConfig.CpuShares", h.CpuShares, 0},
		{"HostConfig.CpuQuota", h.CpuQuota, -1}, {"HostConfig.CpuPeriod", h.CpuPeriod, 0},
	} {
		if v.n < v.min {
			return invalid(v.path, "%d", v.n)
		}
	}
	var c specs.LinuxCPU
	if h.NanoCpus > 0 {
		if h.CpuQuota != 0 || h.CpuPeriod != 0 {
			return invalid("HostConfig.NanoCpus", "cannot go with CpuQuota or CpuPeriod")
		}
		quota, period := max(h.NanoCpus/(1e9/cpuPeriod), 1000), uint64(cpuPeriod)
		c.Quota, c.Period = &quota, &period
	}
	if h.CpuQuota != 0 {
		if h.CpuQuota > 0 && h.CpuQuota < 1000 {
			return invalid("HostConfig.CpuQuota", "%d is less than 1000", h.CpuQuota)
		}
		c.Quota = &h.CpuQuota
	}
	if h.CpuPeriod != 0 {
		if h.CpuPeriod < 1000 || h.CpuPeriod > 1e6 {
			return invalid("HostConfig.CpuPeriod", "%d is not between 1000 and 1000000", h.CpuPeriod)
		}
		period := uint64(h.CpuPeriod)
		c.Period = &period
	}
	if h.CpuShares > 0 {
		shares := uint64(h.CpuShares)
		c.Shares = &shares
	}
	for _, set := range []struct{ path, list string }{
		{"HostConfig.CpusetCpus", h.CpusetCpus}, {"HostConfig.CpusetMems", h.CpusetMems},
	} {
		if strings.Trim(set.list, "0123456789,-") != "" {
			return invalid(set.path, "%q is not a list like 0-2,4", set.list)
		}
	}
	c.Cpus, c.Mems = h.CpusetCpus, h.CpusetMems
	if c != (specs.LinuxCPU{}) {
		b.spec.Linux.Resources.CPU = &c
	}
	return nil
}

var kernelSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
	"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// sysctls allows those that belong to a namespace of the module.
func (b *builder) sysctls() error {
	out := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(b.host.Sysctls)) {
		path := "HostConfig.Sysctls." + name
		ipc := slices.Contains(kernelSysctls, name) || strings.HasPrefix(name, "fs.mqueue.")
		net := strings.HasPrefix(name, "net.")
		switch {
		case strings.Contains(name, "/"), !ipc && !net:
			return invalid(path, "is not a setting of a module's own")
		case net && b.plan.Record.Network.Mode == NetworkHost:
			return invalid(path, "would change the host: the network is host")
		case ipc && b.host.IpcMode == "host":
			return invalid(path, "would change the host: IpcMode is host")
		}
		out[name] = b.host.Sysctls[name]
	}
	if b.opts.Domainname != "" && b.host.UTSMode != "host" {
		out["kernel.domainname"] = b.opts.Domainname
	}
	// As under Docker, a module in its own network may use low ports and ping
	// without privileges.
	if b.plan.Record.Network.Mode != NetworkHost {
		for name, value := range map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647",
		} {
			if _, ok := out[name]; !ok {
				out[name] = value
			}
		}
	}
	if len(out) > 0 {
		b.spec.Linux.Sysctl = out
	}
	return nil
}

// namespaces applies the modes that share one with the host.
func (b *builder) namespaces() error {
	h := b.host
	drop := func(t specs.LinuxNamespaceType) {
		b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
	}
	if b.plan.Record.Network.Mode == NetworkHost {
		drop(specs.NetworkNamespace)
	}
	for _, m := range []struct {
		path, mode string
		private    []string
		ns         specs.LinuxNamespaceType
	}{
		{"HostConfig.PidMode", h.PidMode, []string{"", "private"}, specs.PIDNamespace},
		{"HostConfig.IpcMode", h.IpcMode, []string{"", "private", "shareable", "none"}, specs.IPCNamespace},
		{"HostConfig.UTSMode", h.UTSMode, []string{"", "private"}, specs.UTSNamespace},
	} {
		switch {
		case m.mode == "host":
			drop(m.ns)
		case !slices.Contains(m.private, m.mode):
			return invalid(m.path, "%q is not supported, only host", m.mode)
		}
	}
	if h.UTSMode == "host" {
		b.spec.Hostname = ""
	}
	if h.UsernsMode != "" && h.UsernsMode != "host" {
		return invalid("HostConfig.UsernsMode", "%q is not supported, only host", h.UsernsMode)
	}
	switch mode := h.CgroupnsMode; {
	case mode == "private", mode == "" && b.in.Host.CgroupV2:
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	case mode != "" && mode != "host":
		return invalid("HostConfig.CgroupnsMode", "%q is not host or private", mode)
	}
	switch h.Runtime {
	case "", "runc", "io.containerd.runc.v2":
	default:
		return invalid("HostConfig.Runtime", "there is no runtime %q, only runc", h.Runtime)
	}
	return nil
}

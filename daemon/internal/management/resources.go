package management

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/hostinfo"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// sample is what the call before has measured; the zero value is the start of the
// machine and of the modules.
type sample struct {
	at      time.Time
	cpu     hostinfo.CPU
	modules map[string]runtime.Stats // by instance
}

// GetResources measures the machine and the running modules. Processor use is that
// since the call before, whoever made it.
func (s *System) GetResources(ctx context.Context, _ *managementv1.GetResourcesRequest) (*managementv1.SystemResources, error) {
	stats, err := s.Observer.Stats(ctx)
	if err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	now := sample{at: time.Now(), modules: make(map[string]runtime.Stats, len(stats))}
	for _, st := range stats {
		now.modules[st.Instance] = st
	}
	if now.cpu, err = s.Host.CPU(); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	s.mu.Lock()
	before := s.last
	s.last = now
	s.mu.Unlock()
	out := &managementv1.SystemResources{
		ProcessUptime: max(0, now.at.Sub(s.Started).Seconds()), UsedCpu: now.cpu.Used(before.cpu),
	}
	if out.DockerStats, err = dockerStats(stats, now, before); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	if err := s.measure(out); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return out, nil
}

func (s *System) measure(out *managementv1.SystemResources) (err error) {
	if out.HostUptime, err = s.Host.Uptime(); err != nil {
		return err
	}
	if out.UsedRam, out.TotalRam, err = s.Host.Memory(); err != nil {
		return err
	}
	disks, err := s.Host.Disks()
	if err != nil {
		return err
	}
	for _, d := range disks {
		out.Disks = append(out.Disks, &managementv1.Disk{
			Name: d.Name, AvailableSpace: d.Available, TotalSpace: d.Total, FileSystem: d.FileSystem, FileType: d.Type,
		})
	}
	return nil
}

// What follows is the part of Docker's statistics document that consumers read.
type dockerModule struct {
	Read        time.Time                       `json:"read"`
	Preread     time.Time                       `json:"preread"`
	Name        string                          `json:"name"`
	ID          string                          `json:"id"`
	NumProcs    uint64                          `json:"num_procs"`
	PidsStats   dockerPids                      `json:"pids_stats"`
	CPUStats    dockerCPU                       `json:"cpu_stats"`
	PrecpuStats dockerCPU                       `json:"precpu_stats"`
	MemoryStats dockerMemory                    `json:"memory_stats"`
	BlkioStats  dockerBlock                     `json:"blkio_stats"`
	Networks    map[string]runtime.NetworkStats `json:"networks,omitempty"`
}

type dockerPids struct {
	Current uint64 `json:"current"`
	Limit   uint64 `json:"limit,omitempty"`
}

type dockerCPU struct {
	Usage struct {
		Total  uint64 `json:"total_usage"`
		User   uint64 `json:"usage_in_usermode"`
		Kernel uint64 `json:"usage_in_kernelmode"`
	} `json:"cpu_usage"`
	System uint64 `json:"system_cpu_usage"`
}

type dockerMemory struct {
	Usage uint64            `json:"usage"`
	Limit uint64            `json:"limit"`
	Stats map[string]uint64 `json:"stats"`
}

type dockerBlock struct {
	Bytes []runtime.BlockStats `json:"io_service_bytes_recursive"`
}

// dockerStats writes the document as text. The sample before stands for Docker's
// "pre" values; a module that it does not have began with nothing.
func dockerStats(stats []runtime.Stats, now, before sample) (string, error) {
	out := make([]dockerModule, 0, len(stats))
	for _, st := range stats {
		m := dockerModule{
			Read: st.Read.UTC(), Name: "/" + st.Module, ID: st.Instance, NumProcs: st.Processes,
			PidsStats:   dockerPids{st.Processes, st.ProcessLimit},
			CPUStats:    cpuOf(st, now.cpu),
			MemoryStats: dockerMemory{st.MemoryUsage, st.MemoryLimit, st.Memory},
			BlkioStats:  dockerBlock{st.Block}, Networks: st.Networks,
		}
		if old, ok := before.modules[st.Instance]; ok {
			m.Preread, m.PrecpuStats = old.Read.UTC(), cpuOf(old, before.cpu)
		}
		out = append(out, m)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return "", fmt.Errorf("module statistics: %w", err)
	}
	return string(text), nil
}

func cpuOf(st runtime.Stats, machine hostinfo.CPU) dockerCPU {
	c := dockerCPU{System: machine.Total}
	c.Usage.Total, c.Usage.User, c.Usage.Kernel = st.CPUTotal, st.CPUUser, st.CPUKernel
	return c
}

package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// Resources measures the host and the running modules; *edged.Client is the real one.
type Resources interface {
	Resources(ctx context.Context) (*managementv1.SystemResources, error)
}

// hostName is the module name of figures of the whole machine.
const hostName = "host"

// system holds the figures that the daemon measures.
type system struct {
	hostUptime, daemonUptime           prometheus.Gauge
	freeDisk, totalDisk                *prometheus.GaugeVec
	usedMemory, totalMemory            *prometheus.GaugeVec
	cpu                                *prometheus.SummaryVec
	pids                               *prometheus.GaugeVec
	netIn, netOut, diskRead, diskWrite *prometheus.GaugeVec
}

func newSystem(f factory) *system {
	disk, module := []string{"disk_name", "disk_filesystem", "disk_filetype"}, []string{"module_name"}
	return &system{
		hostUptime:   prometheus.NewGauge(f.gauge("host_uptime_seconds", "How long the machine runs.", true)),
		daemonUptime: prometheus.NewGauge(f.gauge("iotedged_uptime_seconds", "How long the security daemon runs.", true)),
		freeDisk:     prometheus.NewGaugeVec(f.gauge("available_disk_space_bytes", "Free space of a disk.", true), disk),
		totalDisk:    prometheus.NewGaugeVec(f.gauge("total_disk_space_bytes", "Size of a disk.", true), disk),
		usedMemory:   prometheus.NewGaugeVec(f.gauge("used_memory_bytes", "Memory in use, without inactive file cache.", true), module),
		totalMemory:  prometheus.NewGaugeVec(f.gauge("total_memory_bytes", "Memory that there is, or that a module may have.", true), module),
		cpu:          prometheus.NewSummaryVec(f.summary("used_cpu_percent", "Processor time in percent of all processors."), module),
		pids:         prometheus.NewGaugeVec(f.gauge("created_pids_total", "Processes of a module.", false), module),
		netIn:        prometheus.NewGaugeVec(f.gauge("total_network_in_bytes", "Bytes that a module has received.", false), module),
		netOut:       prometheus.NewGaugeVec(f.gauge("total_network_out_bytes", "Bytes that a module has sent.", false), module),
		diskRead:     prometheus.NewGaugeVec(f.gauge("total_disk_read_bytes", "Bytes that a module has read from disks.", false), module),
		diskWrite:    prometheus.NewGaugeVec(f.gauge("total_disk_write_bytes", "Bytes that a module has written to disks.", false), module),
	}
}

func (s *system) collectors() []prometheus.Collector {
	return []prometheus.Collector{s.hostUptime, s.daemonUptime, s.freeDisk, s.totalDisk, s.usedMemory, s.totalMemory,
		s.cpu, s.pids, s.netIn, s.netOut, s.diskRead, s.diskWrite}
}

// Watch measures now and every interval until ctx ends. What cannot be measured is
// logged and keeps its old value.
func (m *Metrics) Watch(ctx context.Context, r Resources, interval time.Duration, log *slog.Logger) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := m.measure(ctx, r); err != nil && ctx.Err() == nil {
			log.Warn("resources of the host not measured", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Metrics) measure(ctx context.Context, r Resources) error {
	v, err := r.Resources(ctx)
	if err != nil {
		return err
	}
	s := m.system
	s.hostUptime.Set(v.GetHostUptime())
	s.daemonUptime.Set(v.GetProcessUptime())
	s.freeDisk.Reset()
	s.totalDisk.Reset()
	for _, d := range v.GetDisks() {
		s.freeDisk.WithLabelValues(d.GetName(), d.GetFileSystem(), d.GetFileType()).Set(d.GetAvailableSpace())
		s.totalDisk.WithLabelValues(d.GetName(), d.GetFileSystem(), d.GetFileType()).Set(d.GetTotalSpace())
	}
	modules, err := parseStats(v.GetDockerStats())
	if err != nil {
		return err
	}
	for _, g := range []*prometheus.GaugeVec{s.usedMemory, s.totalMemory, s.pids, s.netIn, s.netOut, s.diskRead, s.diskWrite} {
		g.Reset() // modules that are gone
	}
	s.usedMemory.WithLabelValues(hostName).Set(v.GetUsedRam())
	s.totalMemory.WithLabelValues(hostName).Set(v.GetTotalRam())
	s.cpu.WithLabelValues(hostName).Observe(v.GetUsedCpu())
	for _, d := range modules {
		s.module(d)
	}
	return nil
}

// stats is what is read of Docker's statistics document of a container.
type stats struct {
	Name  string `json:"name"`
	Procs uint64 `json:"num_procs"`
	Pids  struct {
		Current uint64 `json:"current"`
	} `json:"pids_stats"`
	CPU    cpuStats `json:"cpu_stats"`
	Precpu cpuStats `json:"precpu_stats"`
	Memory struct {
		Usage uint64            `json:"usage"`
		Limit uint64            `json:"limit"`
		Stats map[string]uint64 `json:"stats"`
	} `json:"memory_stats"`
	Block struct {
		Bytes []struct {
			Op    string `json:"op"`
			Value uint64 `json:"value"`
		} `json:"io_service_bytes_recursive"`
	} `json:"blkio_stats"`
	Networks map[string]struct {
		In  uint64 `json:"rx_bytes"`
		Out uint64 `json:"tx_bytes"`
	} `json:"networks"`
}

type cpuStats struct {
	Usage struct {
		Total uint64 `json:"total_usage"`
	} `json:"cpu_usage"`
	System uint64 `json:"system_cpu_usage"`
}

func parseStats(text string) ([]stats, error) {
	if text == "" {
		return nil, nil
	}
	var list []stats
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("statistics of modules: %w", err)
	}
	return list, nil
}

func (s *system) module(d stats) {
	name := strings.TrimPrefix(d.Name, "/")
	inactive, ok := d.Memory.Stats["total_inactive_file"]
	if !ok {
		inactive = d.Memory.Stats["inactive_file"]
	}
	s.usedMemory.WithLabelValues(name).Set(float64(d.Memory.Usage - min(inactive, d.Memory.Usage)))
	s.totalMemory.WithLabelValues(name).Set(float64(d.Memory.Limit))
	if d.CPU.System > d.Precpu.System && d.CPU.Usage.Total >= d.Precpu.Usage.Total {
		s.cpu.WithLabelValues(name).Observe(100 * float64(d.CPU.Usage.Total-d.Precpu.Usage.Total) / float64(d.CPU.System-d.Precpu.System))
	}
	s.pids.WithLabelValues(name).Set(float64(max(d.Pids.Current, d.Procs)))
	var in, out, read, written float64
	for _, n := range d.Networks {
		in, out = in+float64(n.In), out+float64(n.Out)
	}
	for _, b := range d.Block.Bytes {
		switch strings.ToLower(b.Op) {
		case "read":
			read += float64(b.Value)
		case "write":
			written += float64(b.Value)
		}
	}
	s.netIn.WithLabelValues(name).Set(in)
	s.netOut.WithLabelValues(name).Set(out)
	s.diskRead.WithLabelValues(name).Set(read)
	s.diskWrite.WithLabelValues(name).Set(written)
}

package containerd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// Stats implements runtime.Observer.
func (r *Runtime) Stats(ctx context.Context) ([]runtime.Stats, error) {
	ctx = r.ctx(ctx)
	memory, err := machineMemory()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	runs := make([]*run, 0, len(r.running))
	for _, run := range r.running {
		runs = append(runs, run)
	}
	r.mu.Unlock()
	slices.SortFunc(runs, func(a, b *run) int { return strings.Compare(a.name, b.name) })
	out := make([]runtime.Stats, 0, len(runs))
	for _, run := range runs {
		m, err := run.task.Metrics(ctx)
		if err == nil {
			var st runtime.Stats
			if st, err = readMetrics(m.GetData()); err == nil {
				st.Module, st.Instance, st.Read = run.name, run.module.Instance, time.Now()
				if st.MemoryLimit == 0 || st.MemoryLimit > memory {
					st.MemoryLimit = memory
				}
				st.Networks = networkOf(int(run.task.Pid()))
				out = append(out, st)
				continue
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if ended := r.find(run.name) != run; ended || errdefs.IsNotFound(err) {
			continue
		}
		return nil, fmt.Errorf("measure module %s: %w", run.name, translate(err))
	}
	return out, nil
}

func machineMemory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil //nolint:unconvert // 32 bits on arm
}

// readMetrics reads what the shim says of a control group, of either version.
func readMetrics(data typeurl.Any) (runtime.Stats, error) {
	v, err := typeurl.UnmarshalAny(data)
	if err != nil {
		return runtime.Stats{}, fmt.Errorf("metrics: %w", err)
	}
	switch m := v.(type) {
	case *cgroup1.Metrics:
		return readCgroup1(m), nil
	case *cgroup2.Metrics:
		return readCgroup2(m), nil
	}
	return runtime.Stats{}, fmt.Errorf("metrics of unknown kind %s", data.GetTypeUrl())
}

func readCgroup1(m *cgroup1.Metrics) runtime.Stats {
	cpu, mem := m.GetCPU().GetUsage(), m.GetMemory()
	st := runtime.Stats{
		Processes: m.GetPids().GetCurrent(), ProcessLimit: m.GetPids().GetLimit(),
		CPUTotal: cpu.GetTotal(), CPUUser: cpu.GetUser(), CPUKernel: cpu.GetKernel(),
		MemoryUsage: mem.GetUsage().GetUsage(), MemoryLimit: mem.GetUsage().GetLimit(),
		Memory: map[string]uint64{
			"cache": mem.GetCache(), "rss": mem.GetRSS(), "inactive_file": mem.GetInactiveFile(),
			"active_file": mem.GetActiveFile(), "total_cache": mem.GetTotalCache(),
			"total_inactive_file": mem.GetTotalInactiveFile(), "total_rss": mem.GetTotalRSS(),
		},
	}
	for _, e := range m.GetBlkio().GetIoServiceBytesRecursive() {
		st.Block = append(st.Block, runtime.BlockStats{Major: e.GetMajor(), Minor: e.GetMinor(), Op: e.GetOp(), Value: e.GetValue()})
	}
	return st
}

func readCgroup2(m *cgroup2.Metrics) runtime.Stats {
	cpu, mem := m.GetCPU(), m.GetMemory()
	st := runtime.Stats{
		Processes: m.GetPids().GetCurrent(), ProcessLimit: m.GetPids().GetLimit(),
		CPUTotal: cpu.GetUsageUsec() * 1000, CPUUser: cpu.GetUserUsec() * 1000, CPUKernel: cpu.GetSystemUsec() * 1000,
		MemoryUsage: mem.GetUsage(), MemoryLimit: mem.GetUsageLimit(),
		Memory: map[string]uint64{
			"anon": mem.GetAnon(), "file": mem.GetFile(), "inactive_file": mem.GetInactiveFile(), "active_file": mem.GetActiveFile(),
		},
	}
	for _, e := range m.GetIo().GetUsage() {
		st.Block = append(st.Block,
			runtime.BlockStats{Major: e.GetMajor(), Minor: e.GetMinor(), Op: "Read", Value: e.GetRbytes()},
			runtime.BlockStats{Major: e.GetMajor(), Minor: e.GetMinor(), Op: "Write", Value: e.GetWbytes()})
	}
	return st
}

// networkOf reads the interfaces that a process sees, without loopback; nil when
// the process has ended.
func networkOf(pid int) map[string]runtime.NetworkStats {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil
	}
	return parseNetDev(string(data))
}

// parseNetDev reads /proc/net/dev. Lines that are not understood are left out.
func parseNetDev(text string) map[string]runtime.NetworkStats {
	out := map[string]runtime.NetworkStats{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		fields := strings.Fields(rest)
		if !ok || name == "lo" || len(fields) < 16 {
			continue
		}
		var n [16]uint64
		for i := range n {
			var err error
			if n[i], err = strconv.ParseUint(fields[i], 10, 64); err != nil {
				ok = false
			}
		}
		if ok {
			out[name] = runtime.NetworkStats{
				RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
				TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
			}
		}
	}
	return out
}

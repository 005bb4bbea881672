package containerd_test

import (
	"reflect"
	"testing"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

func TestMetricsOfBothCgroupVersions(t *testing.T) {
	for _, c := range []struct {
		name    string
		metrics proto.Message
		want    runtime.Stats
	}{
		{
			"v1", &cgroup1.Metrics{
				Pids:   &cgroup1.PidsStat{Current: 3, Limit: 9},
				CPU:    &cgroup1.CPUStat{Usage: &cgroup1.CPUUsage{Total: 10, User: 6, Kernel: 4}},
				Memory: &cgroup1.MemoryStat{Usage: &cgroup1.MemoryEntry{Usage: 100, Limit: 200}, Cache: 1, RSS: 2, InactiveFile: 3, ActiveFile: 4, TotalCache: 5, TotalInactiveFile: 6, TotalRSS: 7},
				Blkio:  &cgroup1.BlkIOStat{IoServiceBytesRecursive: []*cgroup1.BlkIOEntry{{Op: "Read", Major: 8, Minor: 1, Value: 5}}},
			},
			runtime.Stats{
				Processes: 3, ProcessLimit: 9, CPUTotal: 10, CPUUser: 6, CPUKernel: 4, MemoryUsage: 100, MemoryLimit: 200,
				Memory: map[string]uint64{"cache": 1, "rss": 2, "inactive_file": 3, "active_file": 4, "total_cache": 5, "total_inactive_file": 6, "total_rss": 7},
				Block:  []runtime.BlockStats{{Major: 8, Minor: 1, Op: "Read", Value: 5}},
			},
		},
		{
			"v2", &cgroup2.Metrics{
				Pids:   &cgroup2.PidsStat{Current: 3, Limit: 9},
				CPU:    &cgroup2.CPUStat{UsageUsec: 10, UserUsec: 6, SystemUsec: 4},
				Memory: &cgroup2.MemoryStat{Usage: 100, UsageLimit: 200, Anon: 1, File: 2, InactiveFile: 3, ActiveFile: 4},
				Io:     &cgroup2.IOStat{Usage: []*cgroup2.IOEntry{{Major: 8, Minor: 1, Rbytes: 5, Wbytes: 6}}},
			},
			runtime.Stats{
				Processes: 3, ProcessLimit: 9, CPUTotal: 10000, CPUUser: 6000, CPUKernel: 4000, MemoryUsage: 100, MemoryLimit: 200,
				Memory: map[string]uint64{"anon": 1, "file": 2, "inactive_file": 3, "active_file": 4},
				Block:  []runtime.BlockStats{{Major: 8, Minor: 1, Op: "Read", Value: 5}, {Major: 8, Minor: 1, Op: "Write", Value: 6}},
			},
		},
	} {
		data, err := typeurl.MarshalAny(c.metrics)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := containerd.ReadMetrics(data); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	other, err := typeurl.MarshalAny(timestamppb.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := containerd.ReadMetrics(other); err == nil {
		t.Error("a time passes for metrics")
	}
}

func TestInterfacesOfAProcess(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    2000      20    1    2    0     0          0         0     3000      30    3    4    0     0       0          0
  bad0:    x      20    1    2    0     0          0         0     3000      30    3    4    0     0       0          0
  cut0: 1 2
`
	want := map[string]runtime.NetworkStats{"eth0": {RxBytes: 2000, RxPackets: 20, RxErrors: 1, RxDropped: 2, TxBytes: 3000, TxPackets: 30, TxErrors: 3, TxDropped: 4}}
	if got := containerd.ParseNetDev(text); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

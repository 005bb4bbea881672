package metrics_test

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/metrics"
	"github.com/breakwater-iot/breakwater/agent/internal/reconcile"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

var update = flag.Bool("update", false, "write the golden files")

// host answers with the next of its documents, the last one for ever.
type host struct {
	docs []*managementv1.SystemResources
	n    int
}

func (h *host) Resources(context.Context) (*managementv1.SystemResources, error) {
	h.n++
	doc := h.docs[min(h.n, len(h.docs))-1]
	if doc == nil {
		return nil, errors.New("away")
	}
	return doc, nil
}

func document() *managementv1.SystemResources {
	return &managementv1.SystemResources{
		HostUptime: 1000, ProcessUptime: 500, UsedCpu: 25, UsedRam: 1 << 30, TotalRam: 4 << 30,
		Disks: []*managementv1.Disk{{Name: "/dev/vda1", AvailableSpace: 10 << 30, TotalSpace: 20 << 30, FileSystem: "ext4", FileType: "SSD"}},
		DockerStats: `[{"name":"/m","num_procs":3,"pids_stats":{"current":3},
			"cpu_stats":{"cpu_usage":{"total_usage":3000},"system_cpu_usage":20000},"precpu_stats":{"cpu_usage":{"total_usage":1000},"system_cpu_usage":10000},
			"memory_stats":{"usage":5000,"limit":100000,"stats":{"inactive_file":1000}},
			"blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":7},{"op":"read","value":1},{"op":"Write","value":9}]},
			"networks":{"eth0":{"rx_bytes":11,"tx_bytes":12},"eth1":{"rx_bytes":1,"tx_bytes":1}}}]`,
	}
}

// TestScrape compares everything that a scrape gives with a golden file: names,
// types, labels and values of all metrics of spec edgeagent 10.
func TestScrape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(metrics.Labels{Hub: "hub", Device: "dev", Version: "1.2.3", Host: `{"NumCpus":2}`, Features: "{}"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Watch(ctx, &host{docs: []*managementv1.SystemResources{document()}}, time.Minute, slog.New(slog.DiscardHandler))
		}()
		synctest.Wait()
		observe := func() {
			m.Observe(reconcile.Cycle{Worked: 2 * time.Second, Modules: map[string]reconcile.Sample{"m": {Version: "7", WantedRunning: true, Correct: true}}})
		}
		observe()
		time.Sleep(10 * time.Second)
		observe()
		d, spec := m.Daemon(edgedtest.New("agent:1")), launch.Spec{Name: "m", Version: "7"}
		restart := m.Restart(func(context.Context, string) error { return nil })
		if err := errors.Join(d.Pull(ctx, spec), d.Create(ctx, spec), d.Start(ctx, "m"), restart(ctx, "m"), d.Stop(ctx, "m"),
			d.Update(ctx, spec, false), d.Remove(ctx, "m")); err != nil {
			t.Fatal(err)
		}
		cloud := m.Cloud(edgedtest.NewCloud(`{"$version":1}`))
		_, _ = cloud.Twin(ctx)
		m.Methods(func(context.Context, iothub.MethodRequest) iothub.MethodResponse {
			return iothub.MethodResponse{Status: 200}
		})(ctx, iothub.MethodRequest{Name: "ping"})
		cancel()
		<-done
		got := regexp.MustCompile(`instance_number="[0-9a-f-]{36}"`).ReplaceAllString(scrape(t, m), `instance_number="GUID"`)
		const golden = "testdata/scrape.txt"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("scrape differs from %s:\n%s", golden, got)
		}
	})
}

func TestFiguresFollowTheModules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(metrics.Labels{})
		without := document()
		without.DockerStats = "[]"
		broken := document()
		broken.DockerStats = "{"
		h := &host{docs: []*managementv1.SystemResources{document(), without, broken, nil}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); m.Watch(ctx, h, time.Minute, slog.New(slog.DiscardHandler)) }()
		synctest.Wait()
		expect(t, scrape(t, m), "edgeAgent_used_memory_bytes", `module_name="m"`, "4000")
		time.Sleep(time.Minute)
		synctest.Wait()
		if text := scrape(t, m); strings.Contains(text, `used_memory_bytes{edge_device="",instance_number="",iothub="",module_name="m"`) || strings.Contains(text, `created_pids_total{`) {
			t.Errorf("a module that is gone keeps its figures:\n%s", text)
		}
		time.Sleep(time.Minute)
		time.Sleep(time.Minute)
		synctest.Wait()
		expect(t, scrape(t, m), "edgeAgent_host_uptime_seconds", "", "1000")
		if h.n != 4 {
			t.Errorf("%d measurements", h.n)
		}
		cancel()
		<-done
	})
}

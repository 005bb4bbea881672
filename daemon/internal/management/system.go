package management

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	goruntime "runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// System implements the System service. All fields are needed.
type System struct {
	managementv1.UnimplementedSystemServer

	Observer runtime.Observer
	// Version is the daemon's.
	Version string
	// Additional is [additional_info] of the config.
	Additional                  map[string]string
	DeviceID, HubName, Hostname string
	Log                         *slog.Logger
}

var _ managementv1.SystemServer = (*System)(nil)

// GetInfo tells about host, engine and device.
func (s *System) GetInfo(ctx context.Context, _ *managementv1.GetInfoRequest) (*managementv1.SystemInfo, error) {
	engine, err := s.Observer.Info(ctx)
	if err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	info := &managementv1.SystemInfo{
		OsType: goruntime.GOOS, Architecture: goruntime.GOARCH,
		Version: s.Version, ServerVersion: engine.Version,
		Cpus: uint32(goruntime.NumCPU()), Virtualized: "unknown",
		Additional: s.Additional,
		DeviceId:   s.DeviceID, IothubHostname: s.HubName, Hostname: s.Hostname,
	}
	if err := host(info); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return info, nil
}

// host fills in what the kernel and os-release say.
func host(info *managementv1.SystemInfo) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	info.KernelRelease = unix.ByteSliceToString(u.Release[:])
	info.KernelVersion = unix.ByteSliceToString(u.Version[:])
	var mem unix.Sysinfo_t
	if err := unix.Sysinfo(&mem); err != nil {
		return fmt.Errorf("sysinfo: %w", err)
	}
	info.TotalMemory = float64(mem.Totalram) * float64(mem.Unit)
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		info.Virtualized = virtualized(f)
		f.Close()
	}
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return nil // it need not exist
	}
	defer f.Close()
	release := osRelease(f)
	info.OperatingSystem, info.OperatingSystemVersion = release["ID"], release["VERSION_ID"]
	return nil
}

// virtualized looks for the flag that hypervisors set.
func virtualized(cpuinfo io.Reader) string {
	for lines := bufio.NewScanner(cpuinfo); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			if flag == "hypervisor" {
				return "yes"
			}
		}
		return "no"
	}
	return "unknown"
}

// osRelease reads KEY=value lines with optional quotes.
func osRelease(r io.Reader) map[string]string {
	out := map[string]string{}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		key, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		if ok && !strings.HasPrefix(key, "#") {
			out[key] = strings.Trim(value, `"'`)
		}
	}
	return out
}

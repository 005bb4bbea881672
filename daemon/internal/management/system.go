package management

import (
	"context"
	"fmt"
	"log/slog"
	goruntime "runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/bundle"
	"github.com/breakwater-iot/breakwater/daemon/internal/hostinfo"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// System implements the System service. All fields are needed but Host
// and Extras.
type System struct {
	managementv1.UnimplementedSystemServer

	Observer runtime.Observer
	// Modules lists what a support bundle tells of.
	Modules Lister
	// Host is the machine; the zero value is this one.
	Host hostinfo.Host
	// Version is the daemon's, Started when it was started.
	Version string
	Started time.Time
	// Additional is [additional_info] of the config.
	Additional                  map[string]string
	DeviceID, HubName, Hostname string
	// DynamicReprovisioning tells the agent that it may ask for reprovisioning,
	// AlwaysReprovision that the daemon does so at each start.
	DynamicReprovisioning, AlwaysReprovision bool
	// OnReprovision asks the daemon to end and provision itself anew; it does not
	// wait for that.
	OnReprovision func()
	// Extras adds to a support bundle what the machine tells beside the modules; nil
	// for nothing.
	Extras func(ctx context.Context, a *bundle.Archive, wish bundle.Wish) error
	Log    *slog.Logger

	mu   sync.Mutex
	last sample
}

// Lister lists modules; *module.Manager does.
type Lister interface {
	List(ctx context.Context) ([]runtime.State, error)
}

var _ managementv1.SystemServer = (*System)(nil)

// GetInfo tells about host, engine and device.
func (s *System) GetInfo(ctx context.Context, _ *managementv1.GetInfoRequest) (*managementv1.SystemInfo, error) {
	engine, err := s.Observer.Info(ctx)
	if err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	release := s.Host.Release()
	vendor, product := s.Host.Product()
	info := &managementv1.SystemInfo{
		OsType: goruntime.GOOS, Architecture: goruntime.GOARCH,
		Version: s.Version, ServerVersion: engine.Version,
		OperatingSystem: release["ID"], OperatingSystemVersion: release["VERSION_ID"],
		OperatingSystemVariant: release["VARIANT_ID"], OperatingSystemBuild: release["BUILD_ID"],
		Cpus: uint32(goruntime.NumCPU()), Virtualized: s.Host.Virtualized(),
		ProductName: product, SystemVendor: vendor,
		Provisioning: &managementv1.ProvisioningInfo{
			Type: "ProvisioningType", DynamicReprovisioning: s.DynamicReprovisioning, AlwaysReprovisionOnStartup: s.AlwaysReprovision,
		},
		Additional: s.Additional,
		DeviceId:   s.DeviceID, IothubHostname: s.HubName, Hostname: s.Hostname,
	}
	if err := kernel(info); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return info, nil
}

// kernel fills in what system calls say.
func kernel(info *managementv1.SystemInfo) error {
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
	return nil
}

// Reprovision answers and has the daemon provision itself anew.
func (s *System) Reprovision(ctx context.Context, _ *managementv1.ReprovisionRequest) (*managementv1.ReprovisionResponse, error) {
	s.Log.WarnContext(ctx, "reprovisioning was asked for")
	s.OnReprovision()
	return &managementv1.ReprovisionResponse{}, nil
}

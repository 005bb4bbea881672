package containerd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// defaultCDIDirs are the folders of CDI specs; of two that describe the same device
// that in the later folder counts.
var defaultCDIDirs = []string{"/etc/cdi", "/var/run/cdi"}

// withDevices adds the devices that are asked for by CDI names, as the specs describe
// them now. Old engines cannot do it, so it is done for all.
func (r *Runtime) withDevices(plan *ocimap.Plan) client.NewContainerOpts {
	return func(context.Context, *client.Client, *containers.Container) error {
		if len(plan.Devices) == 0 {
			return nil
		}
		// Read anew each time: no memory and no watching while nobody asks.
		known, err := cdi.NewCache(cdi.WithSpecDirs(r.cfg.CDIDirs...), cdi.WithAutoRefresh(false))
		if err != nil {
			return fmt.Errorf("CDI specs: %w", err)
		}
		var names []string
		for _, d := range plan.Devices {
			if known.GetDevice(d.Name) == nil {
				return fmt.Errorf("%w: %s: there is no device %s in %s%s", runtime.ErrInvalid, d.Option, d.Name,
					strings.Join(r.cfg.CDIDirs, ", "), others(known))
			}
			names = append(names, d.Name)
		}
		if _, err := known.InjectDevices(plan.Spec, names...); err != nil {
			return fmt.Errorf("%w: %s: %w", runtime.ErrInvalid, plan.Devices[0].Option, err)
		}
		return nil
	}
}

const maxOthers = 8

// others says what there is instead, and which specs are of no use.
func others(known *cdi.Cache) string {
	var b strings.Builder
	if all := known.ListDevices(); len(all) > 0 {
		fmt.Fprintf(&b, "; there are %s", strings.Join(all[:min(len(all), maxOthers)], ", "))
		if len(all) > maxOthers {
			fmt.Fprintf(&b, " and %d more", len(all)-maxOthers)
		}
	}
	broken := known.GetErrors()
	for _, path := range slices.Sorted(maps.Keys(broken)) {
		fmt.Fprintf(&b, "; %s cannot be used: %v", path, broken[path])
	}
	return b.String()
}

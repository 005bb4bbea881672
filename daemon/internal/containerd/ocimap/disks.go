package ocimap

import (
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

const (
	minWeight = 10
	maxWeight = 1000
)

// disks limits input and output: by weight, and by rates on single disks. The
// engine's runtime turns weights into those of cgroup v2 where they are needed.
func (b *builder) disks() error {
	h := b.host
	var io specs.LinuxBlockIO
	if w := h.BlkioWeight; w != 0 {
		if w < minWeight || w > maxWeight {
			return invalid("HostConfig.BlkioWeight", "%d is not between %d and %d", w, minWeight, maxWeight)
		}
		io.Weight = &w
	}
	for i, d := range h.BlkioWeightDevice {
		option := indexed("HostConfig.BlkioWeightDevice", i)
		if d.Weight < minWeight || d.Weight > maxWeight {
			return invalid(option+".Weight", "%d is not between %d and %d", d.Weight, minWeight, maxWeight)
		}
		major, minor, err := disk(option, d.Path)
		if err != nil {
			return err
		}
		w := specs.LinuxWeightDevice{Weight: &d.Weight}
		w.Major, w.Minor = major, minor
		io.WeightDevice = append(io.WeightDevice, w)
	}
	for _, t := range []struct {
		option string
		list   []createopts.ThrottleDevice
		out    *[]specs.LinuxThrottleDevice
	}{
		{"HostConfig.BlkioDeviceReadBps", h.BlkioDeviceReadBps, &io.ThrottleReadBpsDevice},
		{"HostConfig.BlkioDeviceWriteBps", h.BlkioDeviceWriteBps, &io.ThrottleWriteBpsDevice},
		{"HostConfig.BlkioDeviceReadIOps", h.BlkioDeviceReadIOps, &io.ThrottleReadIOPSDevice},
		{"HostConfig.BlkioDeviceWriteIOps", h.BlkioDeviceWriteIOps, &io.ThrottleWriteIOPSDevice},
	} {
		for i, d := range t.list {
			option := indexed(t.option, i)
			if d.Rate == 0 {
				return invalid(option+".Rate", "must be above 0")
			}
			major, minor, err := disk(option, d.Path)
			if err != nil {
				return err
			}
			throttle := specs.LinuxThrottleDevice{Rate: d.Rate}
			throttle.Major, throttle.Minor = major, minor
			*t.out = append(*t.out, throttle)
		}
	}
	if io.Weight != nil || io.WeightDevice != nil || io.ThrottleReadBpsDevice != nil || io.ThrottleWriteBpsDevice != nil ||
		io.ThrottleReadIOPSDevice != nil || io.ThrottleWriteIOPSDevice != nil {
		b.spec.Linux.Resources.BlockIO = &io
	}
	return nil
}

// disk reads the numbers of a block device.
func disk(option, name string) (major, minor int64, err error) {
	var st unix.Stat_t
	if !path.IsAbs(name) {
		return 0, 0, invalid(option+".Path", "%q is not an absolute path", name)
	}
	if err := unix.Stat(name, &st); err != nil {
		return 0, 0, invalid(option+".Path", "%s: %v", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, invalid(option+".Path", "%s is not a block device", name)
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}

package ocimap

import (
	"slices"
	"strconv"
	"strings"

	cdi "tags.cncf.io/container-device-interface/pkg/parser"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

const (
	// gpuKind is what requests for GPUs mean that name no other.
	gpuKind = "nvidia.com/gpu"
	maxGPUs = 256
)

// namedDevice takes an entry of Devices that names a device by its CDI name. What it may
// do and where it appears are said by the CDI spec.
func (b *builder) namedDevice(d createopts.Device, path string) error {
	if d.PathInContainer != "" && d.PathInContainer != d.PathOnHost {
		return invalid(path+".PathInContainer", "%q: the CDI spec says where %s appears", d.PathInContainer, d.PathOnHost)
	}
	if d.CgroupPermissions != "" && d.CgroupPermissions != "rwm" {
		return invalid(path+".CgroupPermissions", "%q: the CDI spec says what may be done with %s", d.CgroupPermissions, d.PathOnHost)
	}
	b.addDevice(Device{Name: d.PathOnHost, Option: path})
	return nil
}

func (b *builder) addDevice(d Device) {
	if !slices.ContainsFunc(b.plan.Devices, func(o Device) bool { return o.Name == d.Name }) {
		b.plan.Devices = append(b.plan.Devices, d)
	}
}

// requestedDevices turns device requests into CDI names.
func (b *builder) requestedDevices() error {
	for i, r := range b.host.DeviceRequests {
		path := indexed("HostConfig.DeviceRequests", i)
		gpu := slices.ContainsFunc(r.Capabilities, func(all []string) bool { return slices.Contains(all, "gpu") })
		kind := ""
		switch {
		case r.Driver == "cdi":
			if len(r.DeviceIDs) == 0 || r.Count != 0 {
				return invalid(path, "the driver cdi wants the devices' names in DeviceIDs, and no Count")
			}
		case r.Driver == "nvidia", r.Driver == "" && gpu:
			kind = gpuKind
		case r.Driver != "":
			return invalid(path+".Driver", "there is no driver %q, only cdi and nvidia", r.Driver)
		default:
			return invalid(path+".Capabilities", "nothing is known that has %v, only gpu", r.Capabilities)
		}
		if len(r.Options) > 0 {
			b.warn(path+".Options", "ignored: the CDI spec says how a device is used")
		}
		names, err := deviceNames(r, kind, path)
		if err != nil {
			return err
		}
		for _, name := range names {
			b.addDevice(Device{Name: name, Option: path})
		}
	}
	return nil
}

// deviceNames lists what one request asks for. Without a number and names it is all.
func deviceNames(r createopts.DeviceRequest, kind, path string) ([]string, error) {
	if len(r.DeviceIDs) > 0 {
		if r.Count != 0 {
			return nil, invalid(path, "Count and DeviceIDs exclude each other")
		}
		var out []string
		for j, id := range r.DeviceIDs {
			if kind != "" && !strings.Contains(id, "=") {
				id = kind + "=" + id
			}
			if !cdi.IsQualifiedName(id) {
				return nil, invalid(indexed(path+".DeviceIDs", j), "%q is not like vendor.com/class=name", id)
			}
			out = append(out, id)
		}
		return out, nil
	}
	switch {
	case r.Count < -1 || r.Count > maxGPUs:
		return nil, invalid(path+".Count", "%d is not between -1 and %d", r.Count, maxGPUs)
	case r.Count <= 0:
		return []string{kind + "=all"}, nil
	}
	out := make([]string, r.Count)
	for j := range out {
		out[j] = kind + "=" + strconv.Itoa(j)
	}
	return out, nil
}

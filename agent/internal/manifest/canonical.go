package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// CanonicalOptions rewrites a Docker create body so that equal options become
// equal text: known members get Docker's spelling, nulls and members with their
// default value go, object members are sorted, white space goes. Unknown members
// are kept as they are. Empty text and "null" stand for {}.
func CanonicalOptions(text string) (string, error) {
	text = strings.TrimSpace(text)
	if text == "" || text == "null" {
		return "{}", nil
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return "", fmt.Errorf("no JSON: %w", err)
	}
	if dec.More() {
		return "", errors.New("text after the JSON object")
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return "", errNotObject
	}
	return string(marshal(createBody.canonical(doc))), nil
}

// shape describes a part of Docker's create body. Objects with fields are
// structures; objects without are maps whose keys are data.
type shape struct {
	fields map[string]field // by lower-case name
	elem   *shape           // of lists and maps; nil: values are left alone
}

type field struct {
	name     string
	shape    *shape
	nullable bool // zero differs from absent
}

// structure makes a shape. A name that ends in "?" keeps its zero value.
func structure(names string, nested map[string]*shape) *shape {
	s := &shape{fields: map[string]field{}}
	for _, n := range strings.Fields(names) {
		f := field{name: strings.TrimSuffix(n, "?"), nullable: strings.HasSuffix(n, "?")}
		s.fields[strings.ToLower(f.name)] = f
	}
	for n, sub := range nested {
		s.fields[strings.ToLower(n)] = field{name: n, shape: sub}
	}
	return s
}

func each(s *shape) *shape { return &shape{elem: s} }

var (
	driverShape = structure("Name", map[string]*shape{"Options": {}})
	mountShape  = structure("Type Source Target ReadOnly Consistency", map[string]*shape{
		"BindOptions":   structure("Propagation NonRecursive CreateMountpoint ReadOnlyNonRecursive ReadOnlyForceRecursive", nil),
		"VolumeOptions": structure("NoCopy Subpath", map[string]*shape{"Labels": {}, "DriverConfig": driverShape}),
		"TmpfsOptions":  structure("SizeBytes Mode", nil),
	})
	endpointShape = structure("Aliases Links MacAddress NetworkID EndpointID Gateway IPAddress IPPrefixLen IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen",
		map[string]*shape{"IPAMConfig": structure("IPv4Address IPv6Address LinkLocalIPs", nil), "DriverOpts": {}})
	hostShape = structure(`Binds NetworkMode PublishAllPorts Privileged CapAdd CapDrop DeviceCgroupRules Runtime
		Memory MemoryReservation MemorySwap MemorySwappiness? KernelMemory KernelMemoryTCP NanoCpus CpuShares CpuQuota CpuPeriod
		CpusetCpus CpusetMems CpuRealtimePeriod CpuRealtimeRuntime CpuCount CpuPercent
		BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps
		IOMaximumIOps IOMaximumBandwidth PidsLimit? OomKillDisable? OomScoreAdj ShmSize ExtraHosts Dns DnsSearch DnsOptions
		ReadonlyRootfs SecurityOpt UsernsMode PidMode IpcMode UTSMode CgroupnsMode GroupAdd Init? AutoRemove VolumesFrom
		VolumeDriver Links Cgroup CgroupParent ContainerIDFile Isolation ConsoleSize MaskedPaths ReadonlyPaths`,
		map[string]*shape{
			"Mounts":         each(mountShape),
			"PortBindings":   each(each(structure("HostIp HostPort", nil))),
			"Devices":        each(structure("PathOnHost PathInContainer CgroupPermissions", nil)),
			"DeviceRequests": each(structure("Driver Count DeviceIDs Capabilities", map[string]*shape{"Options": {}})),
			"LogConfig":      structure("Type", map[string]*shape{"Config": {}}),
			"RestartPolicy":  structure("Name MaximumRetryCount", nil),
			"Ulimits":        each(structure("Name Soft Hard", nil)),
			"Tmpfs":          {}, "Sysctls": {}, "StorageOpt": {}, "Annotations": {},
		})
	createBody = structure(`Env Cmd Entrypoint Hostname Domainname User WorkingDir Tty OpenStdin StdinOnce AttachStdin AttachStdout
		AttachStderr StopSignal StopTimeout? Image NetworkDisabled MacAddress Shell OnBuild ArgsEscaped`,
		map[string]*shape{
			"ExposedPorts": {}, "Labels": {}, "Volumes": {},
			"Healthcheck":      structure("Test Interval Timeout Retries StartPeriod StartInterval", nil),
			"HostConfig":       hostShape,
			"NetworkingConfig": structure("", map[string]*shape{"EndpointsConfig": each(endpointShape)}),
		})
)

func (s *shape) canonical(v any) any {
	if s == nil {
		return v
	}
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = s.elem.canonical(v[i])
		}
	case map[string]any:
		if s.fields == nil {
			for k := range v {
				v[k] = s.elem.canonical(v[k])
			}
			return v
		}
		return s.members(v)
	}
	return v
}

// members rewrites a structure. Of two members that differ in case only, the one
// that sorts last wins, whatever the order in the document.
func (s *shape) members(in map[string]any) map[string]any {
	out := make(map[string]any, len(in))
	keys := make([]string, 0, len(in))
	for k := range in {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		f, known := s.fields[strings.ToLower(k)]
		if !known {
			if in[k] != nil {
				out[k] = in[k]
			}
			continue
		}
		v := f.shape.canonical(in[k])
		if v == nil || !f.nullable && isZero(v, f.shape) {
			continue
		}
		out[f.name] = v
	}
	return out
}

// isZero tells whether v is the default of its field. An empty list or map is
// not: Cmd [] and EndpointsConfig {} say something that absence does not.
func isZero(v any, s *shape) bool {
	switch v := v.(type) {
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		f, err := v.Float64()
		return err == nil && f == 0
	case map[string]any:
		return len(v) == 0 && s != nil && s.fields != nil
	}
	return false
}

package ocimap_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
	"github.com/breakwater-iot/breakwater/daemon/internal/modlog"
	"github.com/breakwater-iot/breakwater/daemon/internal/network"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

// input is a module of a usual image on a cgroup v1 host.
func input(t testing.TB, options string) ocimap.Input {
	t.Helper()
	opts, _, err := createopts.Parse([]byte(options))
	if err != nil {
		t.Fatal(err)
	}
	return ocimap.Input{
		Name: "mod", Namespace: "ns", Options: opts,
		Image: v1.ImageConfig{
			Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, Env: []string{"PATH=/bin", "A=image"},
			User: "imageuser", WorkingDir: "/work", StopSignal: "SIGQUIT",
			Labels: map[string]string{"image": "yes", "both": "image"}, ExposedPorts: map[string]struct{}{"9000/udp": {}},
		},
		Host: ocimap.Host{
			Etc:        network.Files{Hosts: "/h/hosts", Hostname: "/h/hostname", Resolv: "/h/resolv.conf"},
			VolumesDir: "/vol", ScratchDir: "/scratch", NetworkName: "azure-iot-edge", Hostname: "machine",
			Capabilities: []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"},
		},
	}
}

func build(t *testing.T, options string) *ocimap.Plan {
	t.Helper()
	p, err := ocimap.Build(input(t, options))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mount(p *ocimap.Plan, destination string) *specs.Mount {
	i := slices.IndexFunc(p.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == destination })
	if i < 0 {
		return nil
	}
	return &p.Spec.Mounts[i]
}

func has(p *ocimap.Plan, ns specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(p.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == ns })
}

// TestMapping has a case for every option; got is what must equal want, both as
// JSON.
func TestMapping(t *testing.T) {
	for name, tc := range map[string]struct {
		options string
		got     func(*ocimap.Plan) any
		want    string
	}{
		"Cmd replaces the image's":         {`{"Cmd":["x","y"]}`, args, `["/entry","x","y"]`},
		"Cmd as a string":                  {`{"Cmd":"run"}`, args, `["/entry","/bin/sh","-c","run"]`},
		"Entrypoint drops the image's Cmd": {`{"Entrypoint":["/e"]}`, args, `["/e"]`},
		"Entrypoint with Cmd":              {`{"Entrypoint":["/e"],"Cmd":["c"]}`, args, `["/e","c"]`},
		"Entrypoint reset":                 {`{"Entrypoint":[""],"Cmd":["/c"]}`, args, `["/c"]`},
		"Entrypoint empty keeps Cmd":       {`{"Entrypoint":[]}`, args, `["cmd"]`},
		"neither":                          {`{}`, args, `["/entry","cmd"]`},

		"Env overrides and removes": {`{"Env":["A","B=1","B=2"]}`, func(p *ocimap.Plan) any { return p.Spec.Process.Env }, `["PATH=/bin","B=2","HOSTNAME=mod"]`},
		"Env removes PATH for good": {`{"Env":["PATH"]}`, func(p *ocimap.Plan) any { return p.Spec.Process.Env }, `["A=image","HOSTNAME=mod"]`},
		"Tty": {`{"Tty":true}`, func(p *ocimap.Plan) any {
			return []any{p.Spec.Process.Terminal, p.Record.Terminal, slices.Contains(p.Spec.Process.Env, "TERM=xterm")}
		}, `[true,true,true]`},
		"WorkingDir":         {`{"WorkingDir":"/w"}`, func(p *ocimap.Plan) any { return p.Spec.Process.Cwd }, `"/w"`},
		"image's WorkingDir": {`{}`, func(p *ocimap.Plan) any { return p.Spec.Process.Cwd }, `"/work"`},
		"User":               {`{"User":"1:2"}`, func(p *ocimap.Plan) any { return p.User }, `"1:2"`},
		"image's User":       {`{}`, func(p *ocimap.Plan) any { return p.User }, `"imageuser"`},
		"GroupAdd":           {`{"HostConfig":{"GroupAdd":["dialout","20"]}}`, func(p *ocimap.Plan) any { return p.Groups }, `["dialout","20"]`},
		"Labels":             {`{"Labels":{"both":"options","net.azure-devices.edge.owner":"thief"}}`, func(p *ocimap.Plan) any { return p.Labels }, `{"both":"options","image":"yes","net.azure-devices.edge.owner":"Microsoft.Azure.Devices.Edge.Agent"}`},
		"ReadonlyRootfs":     {`{"HostConfig":{"ReadonlyRootfs":true}}`, func(p *ocimap.Plan) any { return p.Spec.Root.Readonly }, `true`},
		"Ulimits":            {`{"HostConfig":{"Ulimits":[{"Name":"nofile","Soft":10,"Hard":20},{"Name":"core","Soft":-1,"Hard":-1}]}}`, func(p *ocimap.Plan) any { return p.Spec.Process.Rlimits }, `[{"type":"RLIMIT_NOFILE","hard":20,"soft":10},{"type":"RLIMIT_CORE","hard":18446744073709551615,"soft":18446744073709551615}]`},
		"OomScoreAdj":        {`{"HostConfig":{"OomScoreAdj":-5}}`, func(p *ocimap.Plan) any { return p.Spec.Process.OOMScoreAdj }, `-5`},

		"StopSignal":        {`{"StopSignal":"SIGINT"}`, func(p *ocimap.Plan) any { return p.Record.StopSignal }, `"SIGINT"`},
		"image's signal":    {`{}`, func(p *ocimap.Plan) any { return p.Record.StopSignal }, `"SIGQUIT"`},
		"StopTimeout":       {`{"StopTimeout":3}`, func(p *ocimap.Plan) any { return p.Record.StopTimeout }, `3000000000`},
		"StopTimeout unset": {`{}`, func(p *ocimap.Plan) any { return p.Record.StopTimeout }, `10000000000`},

		"Hostname": {`{"Hostname":"box","Domainname":"lan"}`, func(p *ocimap.Plan) any {
			return []any{p.Spec.Hostname, p.Spec.Linux.Sysctl["kernel.domainname"], p.Record.Hosts.Domainname}
		}, `["box","lan","lan"]`},
		"Hostname unset":     {`{}`, func(p *ocimap.Plan) any { return p.Spec.Hostname }, `"mod"`},
		"Hostname of host":   {`{"HostConfig":{"NetworkMode":"host"}}`, func(p *ocimap.Plan) any { return p.Spec.Hostname }, `"machine"`},
		"UTSMode host":       {`{"HostConfig":{"UTSMode":"host"}}`, func(p *ocimap.Plan) any { return []any{p.Spec.Hostname, has(p, specs.UTSNamespace)} }, `["",false]`},
		"PidMode host":       {`{"HostConfig":{"PidMode":"host"}}`, func(p *ocimap.Plan) any { return has(p, specs.PIDNamespace) }, `false`},
		"IpcMode host":       {`{"HostConfig":{"IpcMode":"host"}}`, func(p *ocimap.Plan) any { return []any{has(p, specs.IPCNamespace), mount(p, "/dev/shm").Type} }, `[false,"bind"]`},
		"IpcMode none":       {`{"HostConfig":{"IpcMode":"none"}}`, func(p *ocimap.Plan) any { return mount(p, "/dev/shm") }, `null`},
		"CgroupnsMode":       {`{"HostConfig":{"CgroupnsMode":"private"}}`, func(p *ocimap.Plan) any { return has(p, specs.CgroupNamespace) }, `true`},
		"CgroupnsMode unset": {`{}`, func(p *ocimap.Plan) any { return has(p, specs.CgroupNamespace) }, `false`},

		"NetworkMode host": {`{"HostConfig":{"NetworkMode":"host"},"NetworkingConfig":{"EndpointsConfig":{"host":{}}}}`, func(p *ocimap.Plan) any {
			return []any{p.Record.Network.Mode, p.Record.Hosts.HostNetwork, has(p, specs.NetworkNamespace), p.Warnings}
		}, `["host",true,false,null]`},
		"endpoint host alone":   {`{"NetworkingConfig":{"EndpointsConfig":{"host":{}}}}`, func(p *ocimap.Plan) any { return p.Record.Network.Mode }, `"host"`},
		"NetworkMode none":      {`{"HostConfig":{"NetworkMode":"none"}}`, func(p *ocimap.Plan) any { return []any{p.Record.Network.Mode, has(p, specs.NetworkNamespace)} }, `["none",true]`},
		"NetworkDisabled":       {`{"NetworkDisabled":true}`, func(p *ocimap.Plan) any { return p.Record.Network.Mode }, `"none"`},
		"NetworkMode named":     {`{"HostConfig":{"NetworkMode":"azure-iot-edge"}}`, func(p *ocimap.Plan) any { return p.Record.Network.Mode }, `"bridge"`},
		"default network":       {`{}`, func(p *ocimap.Plan) any { return p.Record.Network }, `{"mode":"bridge"}`},
		"Aliases":               {`{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"Aliases":["gw.test","mod","gw.test"]}}}}`, func(p *ocimap.Plan) any { return p.Record.Hosts.Aliases }, `["gw.test"]`},
		"a null endpoint":       {`{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":null}}}`, func(p *ocimap.Plan) any { return p.Record.Network.Mode }, `"bridge"`},
		"fixed address and MAC": {`{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"MacAddress":"02:00:00:00:00:01","IPAMConfig":{"IPv4Address":"172.30.0.9"}}}}}`, func(p *ocimap.Plan) any { return p.Record.Network }, `{"mode":"bridge","address":"172.30.0.9","mac":"02:00:00:00:00:01"}`},
		"ExtraHosts":            {`{"HostConfig":{"ExtraHosts":["a:1.2.3.4","b:host-gateway","c:::1"]}}`, func(p *ocimap.Plan) any { return p.Record.Hosts.Extra }, `["a:1.2.3.4","b:host-gateway","c:::1"]`},
		"Dns":                   {`{"HostConfig":{"Dns":["1.1.1.1"],"DnsSearch":["a"],"DnsOptions":["ndots:2"]}}`, func(p *ocimap.Plan) any { return p.Record.Hosts.DNS }, `{"Servers":["1.1.1.1"],"Search":["a"],"Options":["ndots:2"]}`},

		"Binds": {`{"HostConfig":{"Binds":["/src/../dev:/dst/:ro,z,rslave"]}}`, func(p *ocimap.Plan) any {
			return []any{mount(p, "/dst"), p.Record.Directories, p.Spec.Linux.RootfsPropagation}
		}, `[{"destination":"/dst","type":"bind","source":"/dev","options":["rbind","rslave","ro"]},["/dev"],"rslave"]`},
		"Binds of a volume":     {`{"HostConfig":{"Binds":["data:/dst:nocopy"]}}`, func(p *ocimap.Plan) any { return []any{mount(p, "/dst").Source, p.Record.Volumes} }, `["/vol/data",[{"path":"/vol/data","target":"/dst"}]]`},
		"Binds shared":          {`{"HostConfig":{"Binds":["/a:/b:rshared"]}}`, func(p *ocimap.Plan) any { return p.Spec.Linux.RootfsPropagation }, `"rshared"`},
		"Mounts bind":           {`{"HostConfig":{"Mounts":[{"Type":"bind","Source":"/s","Target":"/t","ReadOnly":true,"BindOptions":{"Propagation":"private"}}]}}`, func(p *ocimap.Plan) any { return []any{mount(p, "/t"), p.Sources, p.Record.Directories} }, `[{"destination":"/t","type":"bind","source":"/s","options":["rbind","private","ro"]},[{"Path":"/s","Option":"HostConfig.Mounts[0].Source"}],null]`},
		"Mounts volume":         {`{"HostConfig":{"Mounts":[{"Type":"volume","Source":"v","Target":"/t"}]}}`, func(p *ocimap.Plan) any { return p.Record.Volumes }, `[{"path":"/vol/v","target":"/t","fill":true}]`},
		"Mounts tmpfs":          {`{"HostConfig":{"Mounts":[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":99,"Mode":448}}]}}`, func(p *ocimap.Plan) any { return mount(p, "/t").Options }, `["nosuid","noexec","nodev","rw","size=99","mode=700"]`},
		"Tmpfs":                 {`{"HostConfig":{"Tmpfs":{"/run":"rw,size=64m"}}}`, func(p *ocimap.Plan) any { return mount(p, "/run") }, `{"destination":"/run","type":"tmpfs","source":"tmpfs","options":["nosuid","noexec","nodev","rw","size=64m"]}`},
		"Tmpfs without options": {`{"HostConfig":{"Tmpfs":{"/run":""}}}`, func(p *ocimap.Plan) any { return mount(p, "/run").Options }, `["nosuid","noexec","nodev"]`},
		"ShmSize":               {`{"HostConfig":{"ShmSize":1048576}}`, func(p *ocimap.Plan) any { return mount(p, "/dev/shm").Options }, `["nosuid","noexec","nodev","mode=1777","size=1048576"]`},
		"ShmSize unset":         {`{}`, func(p *ocimap.Plan) any { return mount(p, "/dev/shm").Options[4] }, `"size=67108864"`},
		"own /etc/hosts wins":   {`{"HostConfig":{"Binds":["/my:/etc/hosts"]}}`, func(p *ocimap.Plan) any { return mount(p, "/etc/hosts").Source }, `"/my"`},
		"etc files": {`{}`, func(p *ocimap.Plan) any {
			return []any{mount(p, "/etc/hosts").Source, mount(p, "/etc/hostname").Source, mount(p, "/etc/resolv.conf").Source}
		}, `["/h/hosts","/h/hostname","/h/resolv.conf"]`},
		"Volumes": {`{"Volumes":{"/v":{}}}`, func(p *ocimap.Plan) any {
			return []any{strings.HasPrefix(mount(p, "/v").Source, "/scratch/mod/"), p.Record.Volumes[0].Fill}
		}, `[true,true]`},
		"Volumes give way":        {`{"Volumes":{"/v":{}},"HostConfig":{"Binds":["/mine:/v"]}}`, func(p *ocimap.Plan) any { return mount(p, "/v").Source }, `"/mine"`},
		"outer mounts come first": {`{"HostConfig":{"Binds":["/1:/a/b/c","/2:/a","/3:/a/b"]}}`, func(p *ocimap.Plan) any { return lastSources(p, 3) }, `["/2","/3","/1"]`},

		"Memory":         {`{"HostConfig":{"Memory":10485760,"MemorySwap":20971520,"MemoryReservation":8388608,"MemorySwappiness":10,"OomKillDisable":true}}`, func(p *ocimap.Plan) any { return p.Spec.Linux.Resources.Memory }, `{"limit":10485760,"reservation":8388608,"swap":20971520,"swappiness":10,"disableOOMKiller":true}`},
		"Memory unset":   {`{}`, func(p *ocimap.Plan) any { return p.Spec.Linux.Resources.Memory }, `null`},
		"NanoCpus":       {`{"HostConfig":{"NanoCpus":1500000000}}`, func(p *ocimap.Plan) any { return p.Spec.Linux.Resources.CPU }, `{"quota":150000,"period":100000}`},
		"CPU":            {`{"HostConfig":{"CpuShares":512,"CpuQuota":20000,"CpuPeriod":50000,"CpusetCpus":"0-1","CpusetMems":"0"}}`, func(p *ocimap.Plan) any { return p.Spec.Linux.Resources.CPU }, `{"shares":512,"quota":20000,"period":50000,"cpus":"0-1","mems":"0"}`},
		"PidsLimit":      {`{"HostConfig":{"PidsLimit":7}}`, func(p *ocimap.Plan) any { return p.Spec.Linux.Resources.Pids }, `{"limit":7}`},
		"PidsLimit none": {`{"HostConfig":{"PidsLimit":-1}}`, func(p *ocimap.Plan) any { return p.Spec.Linux.Resources.Pids }, `null`},
		"Sysctls": {`{"HostConfig":{"Sysctls":{"net.core.somaxconn":"9","kernel.shmmax":"1"}}}`, func(p *ocimap.Plan) any {
			return []any{p.Spec.Linux.Sysctl["net.core.somaxconn"], p.Spec.Linux.Sysctl["kernel.shmmax"]}
		}, `["9","1"]`},
		"low ports":         {`{}`, func(p *ocimap.Plan) any { return p.Spec.Linux.Sysctl }, `{"net.ipv4.ip_unprivileged_port_start":"0","net.ipv4.ping_group_range":"0 2147483647"}`},
		"no host sysctls":   {`{"HostConfig":{"NetworkMode":"host"}}`, func(p *ocimap.Plan) any { return p.Spec.Linux.Sysctl }, `null`},
		"cgroup path":       {`{}`, func(p *ocimap.Plan) any { return p.Spec.Linux.CgroupsPath }, `"/ns/mod"`},
		"LogConfig":         {`{"HostConfig":{"LogConfig":{"Type":"local","Config":{"max-size":"1m","max-file":"2"}}}}`, func(p *ocimap.Plan) any { return p.Record.Log }, `{"settings":{"MaxSize":1048576,"MaxFiles":2}}`},
		"LogConfig none":    {`{"HostConfig":{"LogConfig":{"Type":"none"}}}`, func(p *ocimap.Plan) any { return p.Record.Log.None }, `true`},
		"LogConfig journal": {`{"HostConfig":{"LogConfig":{"Type":"journald"}}}`, func(p *ocimap.Plan) any { return []any{p.Record.Log.Settings == modlog.Default, p.Warnings[0].Path} }, `[true,"HostConfig.LogConfig.Type"]`},

		"default caps": {`{}`, func(p *ocimap.Plan) any {
			return []any{len(caps(p)), slices.Contains(caps(p), "CAP_NET_RAW"), slices.Contains(caps(p), "CAP_SYS_ADMIN"), p.Spec.Process.NoNewPrivileges}
		}, `[14,true,false,false]`},
		"CapAdd": {`{"HostConfig":{"CapAdd":["sys_time","CAP_NET_ADMIN"]}}`, func(p *ocimap.Plan) any {
			return []any{len(caps(p)), slices.Contains(caps(p), "CAP_SYS_TIME"), slices.Contains(caps(p), "CAP_NET_ADMIN")}
		}, `[16,true,true]`},
		"CapDrop":             {`{"HostConfig":{"CapDrop":["CHOWN","SETUID"]}}`, func(p *ocimap.Plan) any { return []any{len(caps(p)), slices.Contains(caps(p), "CAP_CHOWN")} }, `[12,false]`},
		"CapDrop ALL, CapAdd": {`{"HostConfig":{"CapDrop":["ALL"],"CapAdd":["KILL"]}}`, func(p *ocimap.Plan) any { return caps(p) }, `["CAP_KILL"]`},
		"CapAdd ALL":          {`{"HostConfig":{"CapAdd":["ALL"],"CapDrop":["KILL"]}}`, func(p *ocimap.Plan) any { return caps(p) }, `["CAP_CHOWN","CAP_SYS_ADMIN"]`},
		"no caps on exec": {`{}`, func(p *ocimap.Plan) any {
			return [][]string{p.Spec.Process.Capabilities.Ambient, p.Spec.Process.Capabilities.Inheritable}
		}, `[null,null]`},
		"confined": {`{}`, func(p *ocimap.Plan) any {
			return []any{p.Spec.Linux.Seccomp != nil, slices.Contains(p.Spec.Linux.MaskedPaths, "/proc/kcore"), slices.Contains(p.Spec.Linux.ReadonlyPaths, "/proc/sys")}
		}, `[true,true,true]`},
		"Privileged": {`{"HostConfig":{"Privileged":true}}`, func(p *ocimap.Plan) any {
			return []any{caps(p), p.Spec.Linux.Seccomp, p.Spec.Linux.MaskedPaths, p.Spec.Linux.ReadonlyPaths, slices.Contains(mount(p, "/sys").Options, "ro"), p.Spec.Linux.Resources.Devices, len(p.Spec.Linux.Devices) > 3}
		}, `[["CAP_CHOWN","CAP_KILL","CAP_SYS_ADMIN"],null,null,null,false,[{"allow":true,"access":"rwm"}],true]`},
		"SecurityOpt": {`{"HostConfig":{"SecurityOpt":["no-new-privileges:true","seccomp=unconfined","apparmor=unconfined","label=disable"]}}`, func(p *ocimap.Plan) any {
			return []any{p.Spec.Process.NoNewPrivileges, p.Spec.Linux.Seccomp, p.Warnings[0].Path}
		}, `[true,null,"HostConfig.SecurityOpt[3]"]`},
		"MaskedPaths": {`{"HostConfig":{"MaskedPaths":["/m"],"ReadonlyPaths":[]}}`, func(p *ocimap.Plan) any { return [][]string{p.Spec.Linux.MaskedPaths, p.Spec.Linux.ReadonlyPaths} }, `[["/m"],[]]`},
		"Devices": {`{"HostConfig":{"Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/dev/nothing","CgroupPermissions":"r"}]}}`, func(p *ocimap.Plan) any {
			d := p.Spec.Linux.Devices[0]
			r := p.Spec.Linux.Resources.Devices
			return []any{d.Path, d.Type, d.Major, d.Minor, r[0].Allow, r[len(r)-1]}
		}, `["/dev/nothing","c",1,3,false,{"allow":true,"type":"c","major":1,"minor":3,"access":"r"}]`},
		"DeviceCgroupRules": {`{"HostConfig":{"DeviceCgroupRules":["c 189:* rw"]}}`, func(p *ocimap.Plan) any { r := p.Spec.Linux.Resources.Devices; return r[len(r)-1] }, `{"allow":true,"type":"c","major":189,"access":"rw"}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.Marshal(tc.got(build(t, tc.options)))
			if err != nil || string(got) != tc.want {
				t.Errorf("got  %s (%v)\nwant %s", got, err, tc.want)
			}
		})
	}
}

func args(p *ocimap.Plan) any { return p.Spec.Process.Args }

func caps(p *ocimap.Plan) []string { return p.Spec.Process.Capabilities.Bounding }

func lastSources(p *ocimap.Plan, n int) []string {
	var out []string
	for _, m := range p.Spec.Mounts[len(p.Spec.Mounts)-n:] {
		out = append(out, m.Source)
	}
	return out
}

func TestPorts(t *testing.T) {
	lo := netip.MustParseAddr("127.0.0.1")
	for name, tc := range map[string]struct {
		options string
		want    []network.Port
	}{
		"one":              {`{"PortBindings":{"443/tcp":[{"HostPort":"8443"}]}}`, []network.Port{{Protocol: "tcp", Container: 443, HostMin: 8443, HostMax: 8443}}},
		"tcp is default":   {`{"PortBindings":{"443":[{"HostPort":"443"}]}}`, []network.Port{{Protocol: "tcp", Container: 443, HostMin: 443, HostMax: 443}}},
		"any host port":    {`{"PortBindings":{"53/udp":[{"HostPort":""}]}}`, []network.Port{{Protocol: "udp", Container: 53}}},
		"one address":      {`{"PortBindings":{"1/tcp":[{"HostIp":"127.0.0.1","HostPort":"2"},{"HostIp":"0.0.0.0","HostPort":"3"}]}}`, []network.Port{{Protocol: "tcp", Container: 1, HostIP: lo, HostMin: 2, HostMax: 2}, {Protocol: "tcp", Container: 1, HostIP: netip.IPv4Unspecified(), HostMin: 3, HostMax: 3}}},
		"one of a range":   {`{"PortBindings":{"1/tcp":[{"HostPort":"5-9"}]}}`, []network.Port{{Protocol: "tcp", Container: 1, HostMin: 5, HostMax: 9}}},
		"range to range":   {`{"PortBindings":{"1-2/tcp":[{"HostPort":"5-6"}]}}`, []network.Port{{Protocol: "tcp", Container: 1, HostMin: 5, HostMax: 5}, {Protocol: "tcp", Container: 2, HostMin: 6, HostMax: 6}}},
		"PublishAllPorts":  {`{"PublishAllPorts":true,"PortBindings":{"1/tcp":[{"HostPort":"5"}]}}`, []network.Port{{Protocol: "tcp", Container: 1, HostMin: 5, HostMax: 5}, {Protocol: "tcp", Container: 8080}, {Protocol: "udp", Container: 9000}}},
		"no bindings":      {`{"PortBindings":{"1/tcp":null}}`, nil},
		"only exposed":     {`{}`, nil},
		"with host's net":  {`{"NetworkMode":"host","PortBindings":{"1/tcp":[{"HostPort":"5"}]}}`, nil},
		"IPv6 unspecified": {`{"PortBindings":{"1/tcp":[{"HostIp":"::","HostPort":"5"}]}}`, []network.Port{{Protocol: "tcp", Container: 1, HostIP: netip.IPv6Unspecified(), HostMin: 5, HostMax: 5}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := build(t, `{"ExposedPorts":{"8080/tcp":{},"1/tcp":{}},"HostConfig":`+tc.options+`}`)
			if !reflect.DeepEqual(p.Record.Network.Ports, tc.want) {
				t.Errorf("got %+v, want %+v", p.Record.Network.Ports, tc.want)
			}
		})
	}
}

func TestAddressesOfIPv6CountWhereTheNetworkHasThem(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		in := input(t, `{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"IPAMConfig":{"IPv4Address":"172.30.0.9","IPv6Address":"fd00:1::9"}}}}}`)
		in.Host.IPv6 = ipv6
		p, err := ocimap.Build(in)
		if err != nil {
			t.Fatal(err)
		}
		warned := slices.ContainsFunc(p.Warnings, func(w createopts.Warning) bool { return strings.HasSuffix(w.Path, "IPAMConfig.IPv6Address") })
		n := p.Record.Network
		if n.Address.String() != "172.30.0.9" || n.Address6.String() != "fd00:1::9" || warned == ipv6 {
			t.Errorf("ipv6 %t: %+v, warnings %v", ipv6, n, p.Warnings)
		}
		in = input(t, `{"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"2001:db8::5","HostPort":"80"}]}}}`)
		in.Host.IPv6 = ipv6
		p, err = ocimap.Build(in)
		switch {
		case !ipv6 && (err == nil || !strings.Contains(err.Error(), "HostConfig.PortBindings.80/tcp[0]: HostIp 2001:db8::5: ports are published on IPv4 only")):
			t.Errorf("error %v", err)
		case ipv6 && (err != nil || p.Record.Network.Ports[0].HostIP != netip.MustParseAddr("2001:db8::5")):
			t.Errorf("%+v, %v", p, err)
		}
	}
}

func TestErrorsNameTheOption(t *testing.T) {
	for options, want := range map[string]string{
		`{"Env":["=x"]}`:                                        "Env",
		`{"WorkingDir":"rel"}`:                                  "WorkingDir",
		`{"StopSignal":"SIGNOPE"}`:                              "StopSignal",
		`{"StopTimeout":-1}`:                                    "StopTimeout",
		`{"Hostname":"a b"}`:                                    "Hostname",
		`{"Volumes":{"rel":{}}}`:                                "Volumes",
		`{"Domainname":"evil\nx"}`:                              "Domainname",
		`{"ExposedPorts":{"x":{}}}`:                             "ExposedPorts.x",
		`{"NetworkingConfig":{"EndpointsConfig":{"other":{}}}}`: "NetworkingConfig.EndpointsConfig.other",
		`{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"Aliases":["x\ny"]}}}}`:                            "NetworkingConfig.EndpointsConfig.azure-iot-edge.Aliases[0]",
		`{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"IPAMConfig":{"IPv4Address":"x"}}}}}`:              "IPAMConfig.IPv4Address",
		`{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"IPAMConfig":{"IPv6Address":"10.0.0.1"}}}}}`:       "IPAMConfig.IPv6Address",
		`{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"IPAMConfig":{"IPv6Address":"fd00::1%eth0"}}}}}`:   "IPAMConfig.IPv6Address",
		`{"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"::1","HostPort":"80"}]}}}`:                               "HostConfig.PortBindings.80/tcp[0]: HostIp ::1",
		`{"HostConfig":{"NetworkMode":"container:x"}}`:                                                                "HostConfig.NetworkMode",
		`{"HostConfig":{"NetworkMode":"mine"}}`:                                                                       "HostConfig.NetworkMode",
		`{"HostConfig":{"PidMode":"container:x"}}`:                                                                    "HostConfig.PidMode",
		`{"HostConfig":{"UsernsMode":"x"}}`:                                                                           "HostConfig.UsernsMode",
		`{"HostConfig":{"CgroupnsMode":"x"}}`:                                                                         "HostConfig.CgroupnsMode",
		`{"HostConfig":{"Runtime":"nvidia"}}`:                                                                         "HostConfig.Runtime",
		`{"HostConfig":{"DeviceRequests":[{"Count":1}]}}`:                                                             "HostConfig.DeviceRequests[0].Capabilities",
		`{"HostConfig":{"DeviceRequests":[{"Capabilities":[["tpu"]]}]}}`:                                              "HostConfig.DeviceRequests[0].Capabilities",
		`{"HostConfig":{"DeviceRequests":[{"Driver":"amd"}]}}`:                                                        "HostConfig.DeviceRequests[0].Driver",
		`{"HostConfig":{"DeviceRequests":[{"Driver":"nvidia","Count":-2}]}}`:                                          "HostConfig.DeviceRequests[0].Count",
		`{"HostConfig":{"DeviceRequests":[{"Driver":"nvidia","Count":2,"DeviceIDs":["0"]}]}}`:                         "exclude each other",
		`{"HostConfig":{"DeviceRequests":[{"Driver":"nvidia","DeviceIDs":["a b"]}]}}`:                                 "HostConfig.DeviceRequests[0].DeviceIDs[0]",
		`{"HostConfig":{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["gpu0"]}]}}`:                                   "HostConfig.DeviceRequests[0].DeviceIDs[0]",
		`{"HostConfig":{"DeviceRequests":[{"Driver":"cdi"}]}}`:                                                        "HostConfig.DeviceRequests[0]",
		`{"HostConfig":{"Devices":[{"PathOnHost":"acme.com/cam=0","PathInContainer":"/dev/x"}]}}`:                     "HostConfig.Devices[0].PathInContainer",
		`{"HostConfig":{"Devices":[{"PathOnHost":"acme.com/cam=0","CgroupPermissions":"r"}]}}`:                        "HostConfig.Devices[0].CgroupPermissions",
		`{"HostConfig":{"Binds":["/a:/b","x/y:/c"]}}`:                                                                 "HostConfig.Binds[1]",
		`{"HostConfig":{"Binds":["/a:b"]}}`:                                                                           "HostConfig.Binds[0]",
		`{"HostConfig":{"Binds":["/a:/b:nope"]}}`:                                                                     "HostConfig.Binds[0]",
		`{"HostConfig":{"Binds":["/a:/b:ro:x"]}}`:                                                                     "HostConfig.Binds[0]",
		`{"HostConfig":{"Binds":["/a:/"]}}`:                                                                           "would hide the image",
		`{"HostConfig":{"Binds":["/a:/b","/c:/b/"]}}`:                                                                 "two mounts on /b",
		`{"HostConfig":{"Mounts":[{"Type":"npipe","Target":"/x"}]}}`:                                                  "HostConfig.Mounts[0]",
		`{"HostConfig":{"Mounts":[{"Type":"bind","Source":"rel","Target":"/x"}]}}`:                                    "HostConfig.Mounts[0]",
		`{"HostConfig":{"Mounts":[{"Type":"volume","Target":"/x","VolumeOptions":{"DriverConfig":{"Name":"nfs"}}}]}}`: "HostConfig.Mounts[0]",
		`{"HostConfig":{"Tmpfs":{"x":""}}}`:                                                                           "HostConfig.Tmpfs",
		`{"HostConfig":{"PortBindings":{"0/tcp":[{}]}}}`:                                                              "HostConfig.PortBindings.0/tcp",
		`{"HostConfig":{"PortBindings":{"80/icmp":[{}]}}}`:                                                            "HostConfig.PortBindings.80/icmp",
		`{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"99999"}]}}}`:                                           "HostConfig.PortBindings.80/tcp[0]",
		`{"HostConfig":{"PortBindings":{"80-82/tcp":[{"HostPort":"80-81"}]}}}`:                                        "HostConfig.PortBindings.80-82/tcp[0]",
		`{"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"fe80::1","HostPort":"80"}]}}}`:                           "HostConfig.PortBindings.80/tcp[0]",
		`{"HostConfig":{"CapAdd":["FLY"]}}`:                                                                           "HostConfig.CapAdd[0]",
		`{"HostConfig":{"CapDrop":["KILL","FLY"]}}`:                                                                   "HostConfig.CapDrop[1]",
		`{"HostConfig":{"SecurityOpt":["seccomp={}"]}}`:                                                               "HostConfig.SecurityOpt[0]",
		`{"HostConfig":{"SecurityOpt":["magic"]}}`:                                                                    "HostConfig.SecurityOpt[0]",
		`{"HostConfig":{"Devices":[{"PathOnHost":"/dev/not-there"}]}}`:                                                "HostConfig.Devices[0].PathOnHost",
		`{"HostConfig":{"Devices":[{"PathOnHost":"/dev/null","CgroupPermissions":"x"}]}}`:                             "HostConfig.Devices[0].CgroupPermissions",
		`{"HostConfig":{"DeviceCgroupRules":["all"]}}`:                                                                "HostConfig.DeviceCgroupRules[0]",
		`{"HostConfig":{"ExtraHosts":["nohost"]}}`:                                                                    "HostConfig.ExtraHosts[0]",
		`{"HostConfig":{"ExtraHosts":["a:1.2.3.4\n6.6.6.6 b"]}}`:                                                      "HostConfig.ExtraHosts[0]",
		`{"HostConfig":{"Dns":["dns.google"]}}`:                                                                       "HostConfig.Dns[0]",
		`{"HostConfig":{"DnsSearch":["a\nb"]}}`:                                                                       "HostConfig.DnsSearch",
		`{"HostConfig":{"LogConfig":{"Config":{"max-size":"x"}}}}`:                                                    "HostConfig.LogConfig.Config: max-size",
		`{"HostConfig":{"Memory":1}}`:                                                                                 "HostConfig.Memory",
		`{"HostConfig":{"MemorySwap":99999999}}`:                                                                      "HostConfig.MemorySwap",
		`{"HostConfig":{"Memory":99999999,"MemorySwap":9999999}}`:                                                     "HostConfig.MemorySwap",
		`{"HostConfig":{"MemorySwappiness":101}}`:                                                                     "HostConfig.MemorySwappiness",
		`{"HostConfig":{"NanoCpus":1,"CpuQuota":5000}}`:                                                               "HostConfig.NanoCpus",
		`{"HostConfig":{"CpuPeriod":1}}`:                                                                              "HostConfig.CpuPeriod",
		`{"HostConfig":{"CpuShares":-1}}`:                                                                             "HostConfig.CpuShares",
		`{"HostConfig":{"CpusetCpus":"all"}}`:                                                                         "HostConfig.CpusetCpus",
		`{"HostConfig":{"OomScoreAdj":2000}}`:                                                                         "HostConfig.OomScoreAdj",
		`{"HostConfig":{"Sysctls":{"kernel.panic":"1"}}}`:                                                             "HostConfig.Sysctls.kernel.panic",
		`{"HostConfig":{"Sysctls":{"net/../kernel":"1"}}}`:                                                            "HostConfig.Sysctls.net/../kernel",
		`{"HostConfig":{"NetworkMode":"host","Sysctls":{"net.x":"1"}}}`:                                               "HostConfig.Sysctls.net.x",
		`{"HostConfig":{"Ulimits":[{"Name":"wings","Soft":1,"Hard":1}]}}`:                                             "HostConfig.Ulimits[0]",
		`{"HostConfig":{"Ulimits":[{"Name":"nofile","Soft":2,"Hard":1}]}}`:                                            "HostConfig.Ulimits[0]",
	} {
		_, err := ocimap.Build(input(t, options))
		if !errors.Is(err, runtime.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", options, err, want)
		}
	}
}

func TestInitGoesBeforeTheCommand(t *testing.T) {
	in := input(t, `{"Entrypoint":["/mine"],"Cmd":["x"],"HostConfig":{"Init":true}}`)
	if _, err := ocimap.Build(in); !errors.Is(err, runtime.ErrInvalid) || !strings.Contains(err.Error(), "HostConfig.Init: ") {
		t.Errorf("without the program: error %v", err)
	}
	in.Host.Init = "/usr/libexec/breakwater/edged-init"
	p, err := ocimap.Build(in)
	if err != nil {
		t.Fatal(err)
	}
	m := p.Spec.Mounts[len(p.Spec.Mounts)-1] // nothing may hide it
	if got := p.Spec.Process.Args; !slices.Equal(got, []string{m.Destination, "/mine", "x"}) {
		t.Errorf("command %q", got)
	}
	if m.Source != in.Host.Init || !slices.Contains(m.Options, "ro") {
		t.Errorf("mount %+v", m)
	}
	in.Options.HostConfig.Init = nil
	if p, err = ocimap.Build(in); err != nil || p.Spec.Process.Args[0] != "/mine" {
		t.Errorf("unasked: %v, %v", p, err)
	}
}

func TestNoCommand(t *testing.T) {
	in := input(t, `{}`)
	in.Image.Entrypoint, in.Image.Cmd = nil, nil
	if _, err := ocimap.Build(in); !errors.Is(err, runtime.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

func TestWarnings(t *testing.T) {
	for options, want := range map[string]string{
		`{"HostConfig":{"RestartPolicy":{"Name":"always"}}}`:                                        "HostConfig.RestartPolicy",
		`{"HostConfig":{"AutoRemove":true}}`:                                                        "HostConfig.AutoRemove",
		`{"HostConfig":{"KernelMemory":1}}`:                                                         "HostConfig.KernelMemory",
		`{"OpenStdin":true}`:                                                                        "OpenStdin",
		`{"HostConfig":{"NetworkMode":"host","PortBindings":{"1/tcp":[{"HostPort":"5"}]}}}`:         "HostConfig.PortBindings",
		`{"HostConfig":{"NetworkMode":"host"},"NetworkingConfig":{"EndpointsConfig":{"other":{}}}}`: "NetworkingConfig.EndpointsConfig.other",
	} {
		p := build(t, options)
		if len(p.Warnings) != 1 || p.Warnings[0].Path != want {
			t.Errorf("%s: warnings %v, want one for %s", options, p.Warnings, want)
		}
	}
	for _, options := range []string{`{}`, `{"HostConfig":{"RestartPolicy":{"Name":"no"},"Init":false}}`} {
		if p := build(t, options); len(p.Warnings) != 0 {
			t.Errorf("%s: warnings %v", options, p.Warnings)
		}
	}
}

func TestCgroupV2Differs(t *testing.T) {
	in := input(t, `{"HostConfig":{"MemorySwappiness":5,"OomKillDisable":true}}`)
	in.Host.CgroupV2 = true
	p, err := ocimap.Build(in)
	if err != nil {
		t.Fatal(err)
	}
	if p.Spec.Linux.Resources.Memory != nil || len(p.Warnings) != 2 || !has(p, specs.CgroupNamespace) {
		t.Errorf("memory %+v, warnings %v", p.Spec.Linux.Resources.Memory, p.Warnings)
	}
}

func TestAppArmor(t *testing.T) {
	for options, want := range map[string]string{
		`{}`: "profile",
		`{"HostConfig":{"SecurityOpt":["apparmor=unconfined"]}}`: "",
		`{"HostConfig":{"SecurityOpt":["apparmor:mine"]}}`:       "mine",
		`{"HostConfig":{"Privileged":true}}`:                     "",
	} {
		in := input(t, options)
		in.Host.AppArmor = "profile"
		p, err := ocimap.Build(in)
		if err != nil || p.Spec.Process.ApparmorProfile != want {
			t.Errorf("%s: profile %q, %v", options, p.Spec.Process.ApparmorProfile, err)
		}
	}
}

func TestRecordSurvivesStorage(t *testing.T) {
	want := build(t, `{"Tty":true,"StopTimeout":4,"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":{"Aliases":["a"]}}},
		"HostConfig":{"Binds":["/a:/b","v:/c"],"PortBindings":{"1/tcp":[{"HostIp":"127.0.0.1","HostPort":"5"}]},"ExtraHosts":["x:1.1.1.1"]}}`).Record
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got ocimap.Record
	if err := json.Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	if want.StopTimeout != 4*time.Second {
		t.Errorf("timeout %v", want.StopTimeout)
	}
}

func FuzzBuild(f *testing.F) {
	for _, s := range []string{
		`{"HostConfig":{"Binds":["a:/b:ro"],"PortBindings":{"80-81/tcp":[{"HostPort":"80-81"}]},"Tmpfs":{"/x":"y"},"CapAdd":["ALL"]}}`,
		`{"Cmd":[],"Entrypoint":[""],"Hostname":"a","HostConfig":{"Mounts":[{"Type":"volume","Source":"a","Target":"/x"}],"ExtraHosts":["a:host-gateway"]}}`,
		`{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":null}},"HostConfig":{"Dns":["::1"],"Ulimits":[{"Name":"nofile","Soft":-1,"Hard":-1}]}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, options string) {
		if _, _, err := createopts.Parse([]byte(options)); err != nil || strings.Contains(strings.ToLower(options), "devices") || strings.Contains(strings.ToLower(options), "privileged") {
			return // device look-ups depend on the machine
		}
		p, err := ocimap.Build(input(t, options))
		if err != nil {
			if !errors.Is(err, runtime.ErrInvalid) {
				t.Errorf("kind of %v", err)
			}
			return
		}
		if p.Labels[runtime.LabelOwner] != runtime.Owner || len(p.Spec.Process.Args) == 0 {
			t.Errorf("%s: %+v", options, p)
		}
		seen := make(map[string]bool)
		for _, m := range p.Spec.Mounts {
			if !strings.HasPrefix(m.Destination, "/") || m.Destination == "/" || seen[m.Destination] {
				t.Errorf("%s: mount on %q", options, m.Destination)
			}
			seen[m.Destination] = true
		}
		for _, v := range p.Record.Volumes {
			if !strings.HasPrefix(v.Path, "/vol/") && !strings.HasPrefix(v.Path, "/scratch/mod/") || strings.Contains(v.Path, "/../") || strings.HasSuffix(v.Path, "/..") {
				t.Errorf("%s: volume in %q", options, v.Path)
			}
		}
	})
}

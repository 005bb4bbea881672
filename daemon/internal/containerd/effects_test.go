//go:build integration

package containerd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// TestEffectsOfOptions runs modules to their end, which print what options have made of
// them: those that TestOptionsReachTheContainer has not.
func TestEffectsOfOptions(t *testing.T) {
	r := engine(t)
	device := filepath.Join(home(t), "device")
	// Of no driver: who may open it is told that there is none, who may not that he may not.
	check(t, syscall.Mknod(device, syscall.S_IFCHR|0o666, int(unix.Mkdev(120, 7))))
	const none, forbidden = "no such device or address", "operation not permitted"
	devices := `"Devices":[{"PathOnHost":"` + device + `","PathInContainer":"/dev/odd","CgroupPermissions":"r"}]`
	for name, tc := range map[string]struct {
		options string
		want    string // a pattern for the whole log
		code    int
	}{
		"Entrypoint and Cmd":       {`{"Entrypoint":["/module","say=first"],"Cmd":["say=second"]}`, "first\nsecond\n", 0},
		"Entrypoint drops Cmd":     {`{"Entrypoint":["/module","say=alone"]}`, "alone\n", 0},
		"Cmd as a string":          {`{"Entrypoint":["/module"],"Cmd":"say=one string"}`, "one string\n", 0}, // /bin/sh and -c are no steps
		"NetworkMode none":         {`{"Cmd":["cat=/proc/net/dev"],"HostConfig":{"NetworkMode":"none"}}`, `[^:]*\n +lo:.*\n`, 0},
		"NetworkDisabled":          {`{"Cmd":["cat=/proc/net/dev"],"NetworkDisabled":true}`, `[^:]*\n +lo:.*\n`, 0},
		"NetworkMode by name":      {`{"Cmd":["cat=/sys/class/net/eth0/operstate"],"HostConfig":{"NetworkMode":"azure-iot-edge"}}`, "up\n", 0},
		"NetworkMode bridge":       {`{"Cmd":["cat=/sys/class/net/eth0/operstate"],"HostConfig":{"NetworkMode":"bridge"}}`, "up\n", 0},
		"MacAddress":               {`{"Cmd":["cat=/sys/class/net/eth0/address"],"MacAddress":"02:00:00:00:00:77"}`, "02:00:00:00:00:77\n", 0},
		"Devices, allowed":         {`{"Cmd":["cat=/dev/odd"],"HostConfig":{` + devices + `}}`, ".*" + none + "\n", 99},
		"Devices, not allowed":     {`{"Cmd":["touch=/dev/odd"],"HostConfig":{` + devices + `}}`, ".*" + forbidden + "\n", 99},
		"DeviceCgroupRules":        {`{"Cmd":["touch=/dev/odd"],"HostConfig":{` + devices + `,"DeviceCgroupRules":["c 120:* w"]}}`, ".*" + none + "\n", 99},
		"LogConfig local":          {`{"Cmd":["say=kept"],"HostConfig":{"LogConfig":{"Type":"local"}}}`, "kept\n", 0},
		"LogConfig none":           {`{"Cmd":["say=lost"],"HostConfig":{"LogConfig":{"Type":"none"}}}`, "", 0},
		"Runtime":                  {`{"Cmd":["say=runs"],"HostConfig":{"Runtime":"runc"}}`, "runs\n", 0},
		"RestartPolicy, no effect": {`{"Cmd":["say=once","exit=3"],"HostConfig":{"RestartPolicy":{"Name":"always"}}}`, "once\n", 3},
	} {
		t.Run(name, func(t *testing.T) {
			got, code := outcome(t, r, tc.options)
			if code != tc.code || !regexp.MustCompile(`\A(?s:`+tc.want+`)\z`).MatchString(got) {
				t.Errorf("exit code %d, log %q, want %q", code, got, tc.want)
			}
		})
	}
}

// TestEffectsOnAProcess looks at modules that run.
func TestEffectsOnAProcess(t *testing.T) {
	r := engine(t)
	file := func(st runtime.State, name string) string {
		t.Helper()
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", st.Pid, name))
		check(t, err)
		return string(data)
	}
	t.Run("CpusetMems", func(t *testing.T) {
		if got := file(up(t, r, `{"HostConfig":{"CpusetMems":"0"}}`), "status"); !strings.Contains(got, "Mems_allowed_list:\t0\n") {
			t.Error(got)
		}
	})
	t.Run("IpcMode none", func(t *testing.T) {
		if got := file(up(t, r, `{"HostConfig":{"IpcMode":"none"}}`), "mountinfo"); strings.Contains(got, " /dev/shm ") {
			t.Error(got)
		}
	})
	for options, confined := range map[string]bool{`{}`: true, `{"HostConfig":{"SecurityOpt":["systempaths=unconfined"]}}`: false} {
		t.Run("paths of the system with "+options, func(t *testing.T) {
			if got := file(up(t, r, options), "mountinfo"); strings.Contains(got, " /proc/sys ro") != confined {
				t.Error(got)
			}
		})
	}
	t.Run("CpuShares", func(t *testing.T) {
		up(t, r, `{"HostConfig":{"CpuShares":512}}`)
		// What weight it is in the second version has changed between releases of runc: not
		// the one without the option.
		path, got, want := cgroupValue(t, "look", "cpu/cpu.shares:cpu.weight", [2]string{"512\n", ""})
		if want != "" && got != want || got == "100\n" {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	})
	t.Run("MemorySwap", func(t *testing.T) {
		up(t, r, `{"HostConfig":{"Memory":33554432,"MemorySwap":67108864}}`)
		// With the first version the limit is of memory and swap, with the second of swap alone.
		path, got, want := cgroupValue(t, "look", "memory/memory.memsw.limit_in_bytes:memory.swap.max", [2]string{"67108864\n", "33554432\n"})
		if got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	})
	for _, tc := range []struct {
		options, kind string
		same          bool
	}{
		{`{"HostConfig":{"UsernsMode":"host"}}`, "user", true},
		{`{"HostConfig":{"CgroupnsMode":"host"}}`, "cgroup", true},
		{`{"HostConfig":{"CgroupnsMode":"private"}}`, "cgroup", false},
	} {
		t.Run(tc.options, func(t *testing.T) {
			theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", up(t, r, tc.options).Pid, tc.kind))
			check(t, err)
			ours, err := os.Readlink("/proc/self/ns/" + tc.kind)
			check(t, err)
			if (theirs == ours) != tc.same {
				t.Errorf("the module's is %s, the host's %s", theirs, ours)
			}
		})
	}
}

func TestLabelsAreOnTheContainer(t *testing.T) {
	r := engine(t)
	st := up(t, r, `{"Labels":{"from-image":"no","own":"x","net.azure-devices.edge.owner":"thief"}}`)
	c, err := client.New(socket, client.WithDefaultNamespace(testNamespace))
	check(t, err)
	defer c.Close()
	container, err := c.LoadContainer(t.Context(), "look")
	check(t, err)
	engines, err := container.Labels(t.Context())
	check(t, err)
	for what, labels := range map[string]map[string]string{"the daemon's": st.Labels, "the engine's": engines} {
		if labels["from-image"] != "no" || labels["own"] != "x" || labels["net.azure-devices.edge.owner"] != "Microsoft.Azure.Devices.Edge.Agent" {
			t.Errorf("%s are %v", what, labels)
		}
	}
}

func TestExposedPortsArePublishedIfAllAre(t *testing.T) {
	r := engine(t)
	create(t, r, "server", `{"Cmd":["listen=8080","say=up","exit=-1"],"ExposedPorts":{"8080/tcp":{}},"HostConfig":{"PublishAllPorts":true}}`)
	start(t, r, "server")
	for range r.Logs(t.Context(), "server", runtime.LogOptions{Follow: true}) {
		break
	}
	rules, err := exec.Command("iptables-save", "--table", "nat").Output()
	check(t, err)
	at := regexp.MustCompile(`--dport (\d+) .*--to-destination ` + regexp.QuoteMeta(addressOf(t, r, "server")) + `:8080\b`).FindSubmatch(rules)
	if at == nil {
		t.Fatalf("no rule for the port in\n%s", rules)
	}
	if got, err := dial("127.0.0.1:" + string(at[1])); got != "hello from server\n" {
		t.Errorf("port %s: %q, %v", at[1], got, err)
	}
}

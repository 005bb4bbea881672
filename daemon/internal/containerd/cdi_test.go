//go:build integration

package containerd_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// cdiSpec describes two cameras and what nvidia's GPUs would be, by what every
// machine has.
const cdiSpec = `
cdiVersion: "0.6.0"
kind: %[1]s
containerEdits:
  env: ["DRIVER=%[1]s"]
devices:
- name: "0"
  containerEdits:
    deviceNodes: [{path: /dev/cam0, hostPath: /dev/zero, permissions: rw}]
    env: ["CAM=0"]
    mounts: [{hostPath: %[2]s, containerPath: /opt/driver, options: [ro, rbind]}]
- name: all
  containerEdits:
    deviceNodes: [{path: /dev/cam0, hostPath: /dev/zero}, {path: /dev/cam1, hostPath: /dev/full}]
- name: gone
  containerEdits:
    deviceNodes: [{path: /dev/gone, hostPath: /dev/breakwater-has-no-such-device}]
`

// TestDevicesByCDIName: what a CDI spec says of a device is what the module has.
func TestDevicesByCDIName(t *testing.T) {
	dir, driver := t.TempDir(), t.TempDir()
	check(t, os.WriteFile(filepath.Join(driver, "libcam.so"), []byte("the driver\n"), 0o644))
	for file, kind := range map[string]string{"acme.yaml": "acme.com/cam", "nvidia.yaml": "nvidia.com/gpu"} {
		check(t, os.WriteFile(filepath.Join(dir, file), fmt.Appendf(nil, cdiSpec, kind, driver), 0o644))
	}
	check(t, os.WriteFile(filepath.Join(dir, "broken.yaml"), []byte("cdiVersion: [\n"), 0o644))
	r, _ := logged(t, func(c *containerd.Config) { c.CDIDirs = []string{dir} })
	t.Cleanup(func() { closeAll(t, r) }) // after the modules

	for name, tc := range map[string]struct {
		options string
		env     []string
		nodes   map[string]uint64 // minor numbers of memory devices
		driver  bool
	}{
		"Devices":            {`{"User":"worker","HostConfig":{"Devices":[{"PathOnHost":"acme.com/cam=0"}]}}`, []string{"DRIVER=acme.com/cam", "CAM=0"}, map[string]uint64{"cam0": 5}, true},
		"the driver cdi":     {`{"HostConfig":{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["acme.com/cam=0"]}]}}`, []string{"CAM=0"}, map[string]uint64{"cam0": 5}, true},
		"all GPUs":           {`{"HostConfig":{"DeviceRequests":[{"Driver":"nvidia","Count":-1,"Capabilities":[["gpu"]]}]}}`, []string{"DRIVER=nvidia.com/gpu"}, map[string]uint64{"cam0": 5, "cam1": 7}, false},
		"a number of GPUs":   {`{"HostConfig":{"DeviceRequests":[{"Count":1,"Capabilities":[["gpu"]]}]}}`, []string{"CAM=0"}, map[string]uint64{"cam0": 5}, true},
		"beside other nodes": {`{"HostConfig":{"Devices":[{"PathOnHost":"acme.com/cam=0"},{"PathOnHost":"/dev/null","PathInContainer":"/dev/mine"}]}}`, []string{"CAM=0"}, map[string]uint64{"cam0": 5, "mine": 3}, true},
	} {
		t.Run(name, func(t *testing.T) {
			st := up(t, r, tc.options)
			root := fmt.Sprintf("/proc/%d/root/", st.Pid)
			for node, minor := range tc.nodes {
				var info syscall.Stat_t
				check(t, syscall.Stat(root+"dev/"+node, &info))
				if info.Mode&syscall.S_IFMT != syscall.S_IFCHR || info.Rdev != 1<<8|minor {
					t.Errorf("%s: mode %o, device %x", node, info.Mode, info.Rdev)
				}
				if want := map[bool]uint32{true: 1234}[strings.Contains(tc.options, "worker")]; node == "cam0" && info.Uid != want {
					t.Errorf("%s belongs to %d, want %d", node, info.Uid, want)
				}
			}
			env := environment(t, st.Pid)
			for _, want := range tc.env {
				if !strings.Contains("\x00"+env, "\x00"+want+"\x00") {
					t.Errorf("no %s in %q", want, env)
				}
			}
			text, err := os.ReadFile(root + "opt/driver/libcam.so")
			if tc.driver != (err == nil && string(text) == "the driver\n") {
				t.Errorf("the mount: %q %v", text, err)
			}
		})
	}

	for options, want := range map[string][]string{
		`{"HostConfig":{"Devices":[{"PathOnHost":"acme.com/cam=9"}]}}`: {
			"HostConfig.Devices[0]", "no device acme.com/cam=9 in " + dir, "there are acme.com/cam=0, acme.com/cam=all", "broken.yaml cannot be used",
		},
		`{"HostConfig":{"DeviceRequests":[{"Driver":"nvidia","DeviceIDs":["GPU-1"]}]}}`: {"HostConfig.DeviceRequests[0]", "no device nvidia.com/gpu=GPU-1"},
		`{"HostConfig":{"Devices":[{"PathOnHost":"acme.com/cam=gone"}]}}`:               {"HostConfig.Devices[0]", "breakwater-has-no-such-device"},
	} {
		err := r.Create(t.Context(), runtime.Spec{Name: "look", Image: image("test/module:1"), Options: parsed(t, options)})
		if !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%s: %v", options, err)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: no %q in %v", options, w, err)
			}
		}
	}
}

// environment is that of a module's program, which the runtime becomes after its start.
func environment(t *testing.T, pid int) string {
	t.Helper()
	limit, tick := time.After(30*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		check(t, err)
		if strings.Contains("\x00"+string(env), "\x00FROM_IMAGE=yes\x00") {
			return string(env)
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("the module has not the environment of its image: %q", env)
		}
	}
}

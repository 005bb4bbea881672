package ocimap_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

func TestDiskLimits(t *testing.T) {
	p := build(t, `{"HostConfig":{"BlkioWeight":300}}`)
	if got, err := json.Marshal(p.Spec.Linux.Resources.BlockIO); err != nil || string(got) != `{"weight":300}` {
		t.Errorf("%s (%v)", got, err)
	}
	if p := build(t, `{}`); p.Spec.Linux.Resources.BlockIO != nil {
		t.Errorf("without limits: %+v", p.Spec.Linux.Resources.BlockIO)
	}
	for options, want := range map[string]string{
		`{"BlkioWeight":5}`: "HostConfig.BlkioWeight",
		`{"BlkioWeightDevice":[{"Path":"/dev/null","Weight":1001}]}`: "HostConfig.BlkioWeightDevice[0].Weight",
		`{"BlkioWeightDevice":[{"Path":"/dev/null","Weight":100}]}`:  "HostConfig.BlkioWeightDevice[0].Path: /dev/null is not a block device",
		`{"BlkioDeviceReadBps":[{"Path":"/dev/null"}]}`:              "HostConfig.BlkioDeviceReadBps[0].Rate",
		`{"BlkioDeviceWriteBps":[{"Path":"sda","Rate":1}]}`:          "HostConfig.BlkioDeviceWriteBps[0].Path",
		`{"BlkioDeviceReadIOps":[{"Path":"/dev/gone","Rate":1}]}`:    "HostConfig.BlkioDeviceReadIOps[0].Path: /dev/gone: no such file",
		`{"BlkioDeviceWriteIOps":[{"Path":"/dev/null","Rate":1}]}`:   "HostConfig.BlkioDeviceWriteIOps[0].Path",
	} {
		if _, err := ocimap.Build(input(t, `{"HostConfig":`+options+`}`)); !errors.Is(err, runtime.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", options, err, want)
		}
	}
}

// TestRatesOfADisk needs the right to make a device node, which nobody opens.
func TestRatesOfADisk(t *testing.T) {
	node := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 3))); errors.Is(err, os.ErrPermission) {
		t.Skip("device nodes may not be made here: run as root")
	} else if err != nil {
		t.Fatal(err)
	}
	p := build(t, `{"HostConfig":{"BlkioWeightDevice":[{"Path":"`+node+`","Weight":200}],"BlkioDeviceReadBps":[{"Path":"`+node+`","Rate":1}],
		"BlkioDeviceWriteBps":[{"Path":"`+node+`","Rate":2}],"BlkioDeviceReadIOps":[{"Path":"`+node+`","Rate":3}],"BlkioDeviceWriteIOps":[{"Path":"`+node+`","Rate":4}]}}`)
	want := `{"weightDevice":[{"major":7,"minor":3,"weight":200}],"throttleReadBpsDevice":[{"major":7,"minor":3,"rate":1}],` +
		`"throttleWriteBpsDevice":[{"major":7,"minor":3,"rate":2}],"throttleReadIOPSDevice":[{"major":7,"minor":3,"rate":3}],"throttleWriteIOPSDevice":[{"major":7,"minor":3,"rate":4}]}`
	if got, err := json.Marshal(p.Spec.Linux.Resources.BlockIO); err != nil || string(got) != want {
		t.Errorf("%s (%v), want %s", got, err, want)
	}
}

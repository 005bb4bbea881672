package ocimap_test

import (
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/ocimap"
)

func TestDevicesAreNamedAsCDIDoes(t *testing.T) {
	for options, want := range map[string]string{
		`{}`: "",
		`{"HostConfig":{"Devices":[{"PathOnHost":"acme.com/cam=front"}]}}`:                                                                "acme.com/cam=front",
		`{"HostConfig":{"Devices":[{"PathOnHost":"acme.com/cam=0","PathInContainer":"acme.com/cam=0","CgroupPermissions":"rwm"}]}}`:       "acme.com/cam=0",
		`{"HostConfig":{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["acme.com/cam=0","acme.com/cam=1"]}]}}`:                            "acme.com/cam=0 acme.com/cam=1",
		`{"HostConfig":{"DeviceRequests":[{"Driver":"nvidia"}]}}`:                                                                         "nvidia.com/gpu=all",
		`{"HostConfig":{"DeviceRequests":[{"Count":-1,"Capabilities":[["gpu"]]}]}}`:                                                       "nvidia.com/gpu=all",
		`{"HostConfig":{"DeviceRequests":[{"Count":2,"Capabilities":[["compute"],["gpu","utility"]]}]}}`:                                  "nvidia.com/gpu=0 nvidia.com/gpu=1",
		`{"HostConfig":{"DeviceRequests":[{"Driver":"nvidia","DeviceIDs":["1","GPU-3a23c669","acme.com/cam=0"]}]}}`:                       "nvidia.com/gpu=1 nvidia.com/gpu=GPU-3a23c669 acme.com/cam=0",
		`{"hostconfig":{"devices":[{"pathonhost":"acme.com/cam=0"}],"devicerequests":[{"driver":"cdi","deviceids":["acme.com/cam=0"]}]}}`: "acme.com/cam=0",
	} {
		plan, err := ocimap.Build(input(t, options))
		if err != nil {
			t.Errorf("%s: %v", options, err)
			continue
		}
		var names []string
		for _, d := range plan.Devices {
			names = append(names, d.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s, want %s", options, got, want)
		}
	}
}

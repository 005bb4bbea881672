package config

import (
	"encoding/base64"
	"os"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

func (v *validator) provisioning() {
	p := &v.c.Provisioning
	switch p.Source {
	case "manual":
	case "":
		v.bad("provisioning.source", "missing")
		return
	case "dps", "none":
		v.bad("provisioning.source", "%q is not supported by this version, only \"manual\"", p.Source)
		return
	default:
		v.bad("provisioning.source", "must be \"manual\"")
		return
	}
	explicit := v.set("provisioning.iothub_hostname") || v.set("provisioning.device_id") || v.set("provisioning.authentication")
	switch {
	case p.ConnectionString != "" && explicit:
		v.bad("provisioning.connection_string", "excludes iothub_hostname, device_id and authentication")
	case explicit:
		v.explicit()
	case p.ConnectionString != "":
		v.connectionString()
	default:
		v.bad("provisioning.connection_string", "missing")
	}
}

func (v *validator) connectionString() {
	const key = "provisioning.connection_string"
	s, err := connstr.Parse(string(v.c.Provisioning.ConnectionString))
	switch {
	case err != nil:
		v.bad(key, "%v", err)
	case s.DeviceID == "":
		v.bad(key, "names no device")
	case s.ModuleID != "":
		v.bad(key, "is that of a module, want that of the device")
	case s.GatewayHostName != "":
		v.bad(key, "GatewayHostName is not supported by this version")
	case s.X509 || len(s.SharedAccessKey) == 0:
		v.bad(key, "has no SharedAccessKey; other credentials are not supported by this version")
	case !isHostName(s.HostName):
		v.bad(key, "HostName is not a host name")
	default:
		v.c.Device = Device{HubName: s.HostName, DeviceID: s.DeviceID, Gateway: s.HostName, Key: s.SharedAccessKey}
		v.deviceID(key)
	}
}

func (v *validator) explicit() {
	p := &v.c.Provisioning
	if !isHostName(p.HubName) {
		v.bad("provisioning.iothub_hostname", "not a host name")
	}
	a := p.Authentication
	if a.Method != "sas" {
		v.bad("provisioning.authentication.method", "%q is not supported by this version, only \"sas\"", a.Method)
		return
	}
	v.c.Device = Device{HubName: p.HubName, DeviceID: p.DeviceID, Gateway: p.HubName, Key: v.deviceKey()}
	v.deviceID("provisioning.device_id")
}

func (v *validator) deviceID(key string) {
	if err := iothub.CheckID(v.c.Device.DeviceID); err != nil {
		v.bad(key, "device id: %v", err)
	}
}

func (v *validator) deviceKey() sas.Key {
	const key = "provisioning.authentication.device_id_pk"
	pk := v.c.Provisioning.Authentication.Key
	var raw []byte
	switch {
	case (pk.Value == "") == (pk.URI == ""):
		v.bad(key, "needs either value or uri")
		return nil
	case pk.Value != "":
		b, err := base64.StdEncoding.DecodeString(string(pk.Value))
		if err != nil {
			v.bad(key+".value", "not base64")
			return nil
		}
		raw = b
	default:
		path := v.file(key+".uri", pk.URI)
		if path == "" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			v.bad(key+".uri", "%v", err)
			return nil
		}
		raw = b
	}
	if len(raw) == 0 {
		v.bad(key, "key is empty")
	}
	return raw
}

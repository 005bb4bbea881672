package registry

import (
	"encoding/json"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// DeviceChange is what a request wants of a device; nil members keep what is.
type DeviceChange struct {
	DeviceID       string
	Status         *string
	StatusReason   *rest.Text
	Authentication *rest.Authentication
	Edge           *bool
	// DeviceScope and ParentScopes: see spec iothub-service 3.4.
	DeviceScope  *string
	ParentScopes *[]string
}

// maxText bounds statusReason and managedBy.
const maxText = 128

// ParseDevice reads the body of a PUT of the device that the path names. Read-only
// members are ignored.
func ParseDevice(device string, body []byte) (DeviceChange, error) {
	var in struct {
		DeviceID       *string              `json:"deviceId"`
		Status         *string              `json:"status"`
		StatusReason   json.RawMessage      `json:"statusReason"`
		Authentication *rest.Authentication `json:"authentication"`
		Capabilities   *struct {
			IoTEdge *bool `json:"iotEdge"`
		} `json:"capabilities"`
		DeviceScope  json.RawMessage `json:"deviceScope"`
		ParentScopes json.RawMessage `json:"parentScopes"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return DeviceChange{}, refuse(ArgumentInvalid, "the body is not a device document")
	}
	if err := iothub.CheckID(device); err != nil {
		return DeviceChange{}, refuse(ArgumentInvalid, "device id is not valid")
	}
	if in.DeviceID == nil || *in.DeviceID != device {
		return DeviceChange{}, refuse(ArgumentInvalid, "deviceId of the body is not that of the path")
	}
	c := DeviceChange{DeviceID: device, Authentication: in.Authentication}
	if in.Capabilities != nil {
		c.Edge = in.Capabilities.IoTEdge
	}
	if in.Status != nil {
		s := strings.ToLower(*in.Status)
		if s != rest.Enabled && s != rest.Disabled {
			return DeviceChange{}, refuse(ArgumentInvalid, "status is neither enabled nor disabled")
		}
		c.Status = &s
	}
	if in.StatusReason != nil {
		c.StatusReason = new(rest.Text)
		if json.Unmarshal(in.StatusReason, c.StatusReason) != nil || len(*c.StatusReason) > maxText {
			return DeviceChange{}, refuse(ArgumentInvalid, "statusReason is not a text of at most %d bytes", maxText)
		}
	}
	if in.DeviceScope != nil {
		c.DeviceScope = new(string)
		if json.Unmarshal(in.DeviceScope, c.DeviceScope) != nil {
			return DeviceChange{}, refuse(ArgumentInvalid, "deviceScope is not a string")
		}
	}
	if in.ParentScopes != nil {
		c.ParentScopes = new([]string)
		if json.Unmarshal(in.ParentScopes, c.ParentScopes) != nil {
			return DeviceChange{}, refuse(ArgumentInvalid, "parentScopes is not a list of strings")
		}
	}
	return c, nil
}

// ModuleChange is what a request wants of a module; nil members keep what is.
type ModuleChange struct {
	ID             iothub.Identity
	ManagedBy      *string
	Authentication *rest.Authentication
}

// ParseModule reads the body of a PUT of the module that the path names.
func ParseModule(id iothub.Identity, body []byte) (ModuleChange, error) {
	var in struct {
		DeviceID       *string              `json:"deviceId"`
		ModuleID       *string              `json:"moduleId"`
		ManagedBy      *string              `json:"managedBy"`
		Authentication *rest.Authentication `json:"authentication"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return ModuleChange{}, refuse(ArgumentInvalid, "the body is not a module document")
	}
	if iothub.CheckID(id.Device) != nil || iothub.CheckID(id.Module) != nil {
		return ModuleChange{}, refuse(ArgumentInvalid, "module id is not valid")
	}
	if in.DeviceID != nil && *in.DeviceID != id.Device || in.ModuleID != nil && *in.ModuleID != id.Module {
		return ModuleChange{}, refuse(ArgumentInvalid, "ids of the body are not those of the path")
	}
	if in.ManagedBy != nil && len(*in.ManagedBy) > maxText {
		return ModuleChange{}, refuse(ArgumentInvalid, "managedBy has more than %d bytes", maxText)
	}
	return ModuleChange{ID: id, ManagedBy: in.ManagedBy, Authentication: in.Authentication}, nil
}

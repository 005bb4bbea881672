package topic

import (
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// Username is an MQTT user name taken apart.
type Username struct {
	HubName    string // host part; the IoT Hub's name even behind a gateway
	Identity   iothub.Identity
	APIVersion string
	ClientType string // "DeviceClientType": product and version of the SDK
	ModelID    string
	AuthChain  string // "target;...;actor"
}

// legacyTail ends the one user name of six segments that is accepted: a preview
// SDK that modules still carry sends it.
const legacyTail = "api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003"

// ParseUsername reads a user name by the rules of edgeHub (spec iothub-mqtt 2.1).
// Ids are trimmed, not decoded, and must be well-formed; values of properties are
// decoded; of equal names the first wins; unknown ones are skipped; api-version
// must be there. Errors wrap ErrMalformed.
func ParseUsername(s string) (Username, error) {
	segments := strings.Split(s, "/")
	if len(segments) == 6 && strings.Join(segments[3:], "/") == legacyTail {
		u := Username{
			APIVersion: "2017-06-30",
			ClientType: "Microsoft.Azure.Devices.Client/1.5.1-preview-003",
		}
		return u.checked(segments[:3])
	}
	last := len(segments) - 1
	if last != 2 && last != 3 {
		return Username{}, fmt.Errorf("%w user name: %d segments", ErrMalformed, last+1)
	}
	properties, marked := strings.CutPrefix(segments[last], "?")
	if !marked && !strings.Contains(properties, "api-version=") {
		return Username{}, fmt.Errorf("%w user name: no api-version", ErrMalformed)
	}
	var u Username
	u.setProperties(properties)
	if strings.TrimSpace(u.APIVersion) == "" {
		return Username{}, fmt.Errorf("%w user name: no api-version", ErrMalformed)
	}
	return u.checked(segments[:last])
}

// ParseUsernameLenient accepts what ParseUsername does and more, as the cloud
// service does: no api-version, "hub/device" and "hub/device/module" without
// properties, and properties that follow the last id after "?" without a slash.
func ParseUsernameLenient(s string) (Username, error) {
	u, strictErr := ParseUsername(s)
	if strictErr == nil {
		return u, nil
	}
	segments := strings.Split(s, "/")
	last := len(segments) - 1
	u = Username{}
	switch properties, marked := strings.CutPrefix(segments[last], "?"); {
	case marked && last >= 1:
		u.setProperties(properties)
		segments = segments[:last]
	default:
		// "?" may be part of an id; the one before api-version separates.
		api := strings.Index(segments[last], "api-version=")
		if api < 0 {
			break
		}
		mark := strings.LastIndexByte(segments[last][:api], '?')
		if mark < 0 {
			return Username{}, strictErr
		}
		u.setProperties(segments[last][mark+1:])
		segments[last] = segments[last][:mark]
	}
	if len(segments) != 2 && len(segments) != 3 {
		return Username{}, strictErr
	}
	return u.checked(segments)
}

func (u Username) checked(segments []string) (Username, error) {
	if err := u.setIDs(segments); err != nil {
		return Username{}, err
	}
	return u, nil
}

// setIDs reads host, device and perhaps module.
func (u *Username) setIDs(segments []string) error {
	u.HubName = strings.TrimSpace(segments[0])
	u.Identity.Device = strings.TrimSpace(segments[1])
	if err := iothub.CheckID(u.Identity.Device); err != nil {
		return fmt.Errorf("%w user name: device: %w", ErrMalformed, err)
	}
	if len(segments) > 2 {
		u.Identity.Module = strings.TrimSpace(segments[2])
		if err := iothub.CheckID(u.Identity.Module); err != nil {
			return fmt.Errorf("%w user name: module: %w", ErrMalformed, err)
		}
	}
	return nil
}

func (u *Username) setProperties(s string) {
	var seen [4]bool
	for pair := range strings.SplitSeq(s, "&") {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			continue
		}
		var i int
		var dst *string
		switch name {
		case "api-version":
			i, dst = 0, &u.APIVersion
		case "DeviceClientType":
			i, dst = 1, &u.ClientType
		case "model-id":
			i, dst = 2, &u.ModelID
		case "auth-chain":
			i, dst = 3, &u.AuthChain
		default:
			continue
		}
		if !seen[i] {
			seen[i], *dst = true, unescape(value)
		}
	}
}

// String writes the user name in the form that SDKs of today send.
func (u Username) String() string {
	s := u.HubName + "/" + u.Identity.String() + "/?api-version=" + encode(u.APIVersion)
	if u.ClientType != "" {
		s += "&DeviceClientType=" + encode(u.ClientType)
	}
	if u.ModelID != "" {
		s += "&model-id=" + encode(u.ModelID)
	}
	if u.AuthChain != "" {
		s += "&auth-chain=" + encode(u.AuthChain)
	}
	return s
}

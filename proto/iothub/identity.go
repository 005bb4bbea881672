package iothub

import (
	"errors"
	"fmt"
	"strings"
)

// Names of the two system modules in the cloud.
const (
	AgentModule = "$edgeAgent"
	HubModule   = "$edgeHub"
)

// MaxIDLength is the longest device or module id, in bytes.
const MaxIDLength = 128

// ErrInvalidID is wrapped by every error about a malformed device or module id.
var ErrInvalidID = errors.New("invalid id")

// Identity names a device, or a module of a device. The zero value names nobody.
// It is comparable and may be used as a map key; comparison is case-sensitive, as
// in IoT Hub.
type Identity struct {
	Device string
	Module string // empty for a device
}

// DeviceIdentity returns the identity of a device.
func DeviceIdentity(device string) Identity { return Identity{Device: device} }

// ModuleIdentity returns the identity of a module.
func ModuleIdentity(device, module string) Identity {
	return Identity{Device: device, Module: module}
}

// ParseIdentity reads "device" or "device/module", the form of MQTT client ids
// and of scope listings. Errors wrap ErrInvalidID.
func ParseIdentity(s string) (Identity, error) {
	device, module, isModule := strings.Cut(s, "/")
	id := Identity{Device: device, Module: module}
	if err := CheckID(device); err != nil {
		return Identity{}, fmt.Errorf("device id: %w", err)
	}
	if isModule {
		if err := CheckID(module); err != nil {
			return Identity{}, fmt.Errorf("module id: %w", err)
		}
	}
	return id, nil
}

// IsModule tells whether id names a module.
func (id Identity) IsModule() bool { return id.Module != "" }

// IsZero tells whether id names nobody.
func (id Identity) IsZero() bool { return id == Identity{} }

// Parent returns the identity of the device that a module belongs to, and the
// identity itself for a device.
func (id Identity) Parent() Identity { return Identity{Device: id.Device} }

// String returns "device" or "device/module".
func (id Identity) String() string {
	if id.Module == "" {
		return id.Device
	}
	return id.Device + "/" + id.Module
}

// CheckID tells what is wrong with a device or module id: 1 to 128 ASCII letters,
// digits and - : . + % _ # * ? ! ( ) , = @ $ ' ; (iothub-service.md 3.1). The
// error wraps ErrInvalidID.
func CheckID(id string) error {
	if id == "" {
		return fmt.Errorf("%w: empty", ErrInvalidID)
	}
	if len(id) > MaxIDLength {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrInvalidID, len(id), MaxIDLength)
	}
	for i := range len(id) {
		if !idByte(id[i]) {
			return fmt.Errorf("%w: byte %q at offset %d", ErrInvalidID, id[i], i)
		}
	}
	return nil
}

func idByte(b byte) bool {
	switch {
	case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
		return true
	}
	return strings.IndexByte("-:.+%_#*?!(),=@$';", b) >= 0
}

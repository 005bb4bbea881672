package registry

import "fmt"

// Code is the name that IoT Hub gives to an error.
type Code string

// Codes of this package's errors.
const (
	ArgumentInvalid      Code = "ArgumentInvalid"
	InvalidOperation     Code = "InvalidOperation"
	InvalidDeviceScope   Code = "InvalidDeviceScope"
	DeviceNotFound       Code = "DeviceNotFound"
	ModuleNotFound       Code = "ModuleNotFound"
	DeviceAlreadyExists  Code = "DeviceAlreadyExists"
	ModuleAlreadyExists  Code = "ModuleAlreadyExistsOnDevice"
	PreconditionFailed   Code = "PreconditionFailed"
	TooManyModules       Code = "TooManyModulesOnDevice"
	SystemModuleReserved Code = "SystemModuleModifyUnauthorizedAccess"
)

// Error is a refusal by a rule of the registry. All are permanent.
type Error struct {
	Code Code
	Text string
}

// Error returns code and text.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Text }

func refuse(c Code, format string, args ...any) error {
	return &Error{Code: c, Text: fmt.Sprintf(format, args...)}
}

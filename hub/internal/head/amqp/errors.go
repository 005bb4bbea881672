package amqp

import (
	"errors"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

// Conditions that IoT Hub adds to those of the standard (spec iothub-amqp 9).
const (
	condThrottled = "com.microsoft:device-container-throttled"
	condArgument  = "com.microsoft:argument-error"
)

// wireError is what an error of the Backend means to a client. Only errors about
// the request itself carry their text.
func wireError(err error) *wire.Error {
	switch {
	case errors.Is(err, head.ErrUnauthorized), errors.Is(err, head.ErrExpired):
		return wire.Errorf(wire.CondUnauthorizedAccess, "the credentials do not hold")
	case errors.Is(err, head.ErrNotFound):
		return wire.Errorf(wire.CondNotFound, "the identity does not exist")
	case errors.Is(err, head.ErrTooLarge):
		return wire.Errorf(wire.CondMessageSizeExceeded, "%v", err)
	case errors.Is(err, head.ErrInvalid):
		return wire.Errorf(condArgument, "%v", err)
	case errors.Is(err, head.ErrPrecondition):
		return wire.Errorf(wire.CondPreconditionFailed, "%v", err)
	case errors.Is(err, head.ErrThrottled):
		return wire.Errorf(condThrottled, "too much at once")
	case errors.Is(err, head.ErrReplaced):
		return wire.Errorf(wire.CondStolen, "the identity has connected again")
	case errors.Is(err, head.ErrShutdown), errors.Is(err, head.ErrUnavailable):
		return wire.Errorf(wire.CondDetachForced, "the hub is not available now")
	}
	return wire.Errorf(wire.CondInternalError, "internal error")
}

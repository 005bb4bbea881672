package manifest

import (
	"errors"
	"fmt"
)

// Codes that a refused manifest is reported with (spec edgeagent 5.4).
const (
	CodeFormat        = 400
	CodeSchemaVersion = 412
	CodeEmpty         = 417
)

// Texts that go with the codes; tools in the field compare them.
const (
	formatText = "Agent configuration format is invalid."
	emptyText  = "This device has an empty configuration for the edge agent. Please set a deployment manifest."
)

// Error tells why a manifest was refused. It never contains a password.
type Error struct {
	Code   int
	Path   string // dotted path of the member at fault, empty for the whole document
	Reason string
}

// Error gives the code, the path and the reason, for logs.
func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("manifest refused (%d): %s", e.Code, e.Reason)
	}
	return fmt.Sprintf("manifest refused (%d): %s: %s", e.Code, e.Path, e.Reason)
}

// Description is the text for lastDesiredStatus.description.
func (e *Error) Description() string {
	switch e.Code {
	case CodeFormat:
		return formatText
	case CodeEmpty:
		return emptyText
	}
	return e.Reason
}

// AsError returns the *Error within err, if there is one.
func AsError(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

func invalid(path, format string, args ...any) error {
	return &Error{Code: CodeFormat, Path: path, Reason: fmt.Sprintf(format, args...)}
}

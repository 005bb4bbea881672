package runtime

import (
	"errors"
	"fmt"
)

// Kinds of failure. All of them are permanent until somebody changes something,
// except ErrUnavailable and ErrNoSpace.
var (
	// ErrNotFound: there is no module of that name, or no module has that process.
	ErrNotFound = errors.New("no such module")
	// ErrExists: Create of a name that is taken.
	ErrExists = errors.New("module exists")
	// ErrInvalid: a name, reference or option that cannot be carried out.
	ErrInvalid = errors.New("invalid request")
	// ErrImageNotFound: the image is neither on the device nor, if it was asked, in
	// the registry.
	ErrImageNotFound = errors.New("no such image")
	// ErrUnauthorized: the registry refused the account.
	ErrUnauthorized = errors.New("registry refused access")
	// ErrUntrusted: the device's policy does not let the image run.
	ErrUntrusted = errors.New("image not trusted")
	// ErrInUse: an image that a module still needs.
	ErrInUse = errors.New("image in use")
	// ErrNoSpace: the disk has no room for an image. Nothing of it is left; other
	// things may make room.
	ErrNoSpace = errors.New("not enough disk space")
	// ErrUnavailable: the engine or the registry does not answer; try again later.
	ErrUnavailable = errors.New("not reachable")
)

// PullError is a failed Pull.
type PullError struct {
	Image    string
	Registry string
	Err      error
}

func (e *PullError) Error() string {
	return fmt.Sprintf("pull %s from %s: %v", e.Image, e.Registry, e.Err)
}

// Unwrap returns the cause.
func (e *PullError) Unwrap() error { return e.Err }

const maxName = 76 // what containerd takes as an identifier

// CheckName reports whether name can be a module's: 1 to 76 letters, digits, and
// single '.', '_' or '-' between them. It fails with ErrInvalid.
func CheckName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%w: module name of %d characters, want 1 to %d", ErrInvalid, len(name), maxName)
	}
	punctuation := true // so that none may come first
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			punctuation = false
		case (c == '.' || c == '_' || c == '-') && !punctuation:
			punctuation = true
		default:
			return fmt.Errorf("%w: module name %q at character %d", ErrInvalid, name, i+1)
		}
	}
	if punctuation {
		return fmt.Errorf("%w: module name %q ends with punctuation", ErrInvalid, name)
	}
	return nil
}

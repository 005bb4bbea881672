// Package runtime is the border between the daemon and the engine that runs its
// modules: what a module is, what can be done with it, and how it fails. The
// management API, the watchdog and the workload API stand on this interface; the
// engine itself is in internal/containerd, and an in-memory one for tests in
// runtime/runtimetest. A name always means a module's name, which is also the name
// of its container.
//
// Only what the daemon created is visible here: a container of somebody else in
// the same namespace is neither listed, nor stopped, nor trusted.
package runtime

import (
	"context"
	"iter"
	"time"
)

// Runtime is the whole engine. All methods may be called concurrently; operations
// on one module are done one after the other.
type Runtime interface {
	Images
	Modules
	Observer
}

// Images brings images to the device and removes them.
type Images interface {
	// Pull makes the image of the request present and unpacked for this machine's
	// platform. With PullNever it only looks: a missing image is ErrImageNotFound.
	// Failures are *PullError and name the image and its registry, never the
	// credentials. When the name moves to another image, the one that it stood for gets
	// a name by its digest, if a module was made from it.
	Pull(ctx context.Context, req PullRequest) (Image, error)
	// ListImages returns the images in the daemon's namespace.
	ListImages(ctx context.Context) ([]Image, error)
	// RemoveImage removes every name of the image with this id. It fails with
	// ErrInUse while a module's container was created from it, and succeeds when the
	// image is already gone.
	RemoveImage(ctx context.Context, id string) error
	// ReleaseImages takes away the names that Pull has given by digest, except of images
	// that a module was made from, and of those with these ids. Images without a name
	// are gone.
	ReleaseImages(ctx context.Context, keep []string) error
}

// Modules creates, runs and removes modules.
type Modules interface {
	// Create makes a stopped module. The image must be present (Pull). A module of
	// that name is ErrExists; options that cannot be carried out are ErrInvalid and
	// name the JSON path.
	Create(ctx context.Context, spec Spec) error
	// Start runs a stopped module; a running one is left alone.
	Start(ctx context.Context, name string) error
	// Stop sends the module's stop signal and, after timeout, SIGKILL; it returns
	// when the module has ended. A module that does not run is left alone. A
	// negative timeout (DefaultStopTimeout) means the module's own, else 10 s.
	Stop(ctx context.Context, name string, timeout time.Duration) error
	// Rebind puts what is at these paths of the host now into a running module, in the
	// place of what was bound from there when it was started: a socket that was made
	// anew is another file. Paths that the module has no bind of, and a module that does
	// not run, are left alone.
	Rebind(ctx context.Context, name string, paths ...string) error
	// Remove kills and forgets a module with its log and its anonymous state; named
	// volumes stay. Removing what does not exist succeeds.
	Remove(ctx context.Context, name string) error
	// Get returns the state of one module, ErrNotFound if there is none.
	Get(ctx context.Context, name string) (State, error)
	// List returns the state of all modules, ordered by name.
	List(ctx context.Context) ([]State, error)
}

// Observer looks at what runs.
type Observer interface {
	// Logs yields what the module wrote, oldest first. The sequence ends at the end
	// of what is there, or with Follow when the module stops, is removed, or ctx
	// ends. An error is yielded once, last. An Entry is valid until the next one.
	Logs(ctx context.Context, name string, opts LogOptions) iter.Seq2[LogEntry, error]
	// Events returns what happens from now on. The channel is bounded: it is closed
	// when ctx ends, when the runtime closes, and when the reader falls more than
	// EventBacklog events behind; a reader that goes on then subscribes again and
	// lists.
	Events(ctx context.Context) <-chan Event
	// ModuleOfPid tells which running module a process belongs to. ErrNotFound
	// means that it belongs to none. The process is proved to be the same one
	// before and after the look-up, so a reused pid cannot pass for another
	// module's; to be sure that it is still the peer of a connection the caller
	// holds a pidfd or compares Process.StartTicks.
	ModuleOfPid(ctx context.Context, pid int) (Process, error)
	// Stats measures all running modules, ordered by name. One that ends meanwhile
	// is left out.
	Stats(ctx context.Context) ([]Stats, error)
	// Info describes the engine.
	Info(ctx context.Context) (Info, error)
}

// DefaultStopTimeout asks Stop for the module's own timeout.
const DefaultStopTimeout time.Duration = -1

// EventBacklog is how many events an Events channel holds.
const EventBacklog = 256

package runtime

import (
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
)

// Labels that every module's container carries. Modules cannot override them.
const (
	LabelOwner         = "net.azure-devices.edge.owner"
	LabelOriginalImage = "net.azure-devices.edge.original-image"
	// Owner is the value of LabelOwner. It is the original's, because the agent and
	// people's scripts filter by it.
	Owner = "Microsoft.Azure.Devices.Edge.Agent"
)

// Spec says how to create a module.
type Spec struct {
	// Name is the module's name. See CheckName.
	Name string
	// Image is the reference as the deployment states it.
	Image string
	// ImageID, if set, is the id of the image to use; see PullRequest.ID.
	ImageID string
	// Options is the parsed createOptions, after the caller merged the module's
	// environment (Options.AddEnv) and took away privileges (Options.DropElevated).
	Options createopts.Options
}

// Status is the state of a module's container.
type Status string

// The states a container may be in.
const (
	StatusCreated Status = "created" // never started
	StatusRunning Status = "running"
	StatusPaused  Status = "paused"
	StatusExited  Status = "exited"
	StatusUnknown Status = "unknown" // the engine cannot tell
)

// Health is what a module's health check says.
type Health string

// How a module may feel.
const (
	HealthStarting Health = "starting" // it has neither succeeded nor failed often enough
	Healthy        Health = "healthy"
	Unhealthy      Health = "unhealthy"
)

// State is a module as it is now.
type State struct {
	Name string
	// Image is the reference as it was requested.
	Image string
	// ImageID is the digest of the image's configuration, "sha256:…".
	ImageID string
	// ImageDigest is the digest of the manifest or index that the reference led to.
	ImageDigest string
	// Instance differs for every creation of a module of this name.
	Instance string
	Labels   map[string]string
	Status   Status
	// Pid is the first process while the module runs, else 0.
	Pid int
	// Created is when the module was created; Started when it was last started and
	// Exited when it last ended, each zero if that never happened.
	Created, Started, Exited time.Time
	// ExitCode belongs to Exited. 128+n means killed by signal n. 255 with Exited
	// set means that the end was not seen (power loss, a shim that was killed).
	ExitCode int
	// Health is how it feels while it runs, if it has a health check, else "".
	// HealthOutput is what its last failed check said when Health changed; bounded.
	Health       Health
	HealthOutput string
	// Address is the module's address in the module network while it runs there, and
	// Address6 that of IPv6 if the network has any.
	Address, Address6 string
}

// Process is a process of a module.
type Process struct {
	Pid int
	// StartTicks is field 22 of /proc/<pid>/stat; with Pid it names one process.
	StartTicks uint64
	Module     string
	Instance   string
	// Labels are those of the module; the caller must not change them.
	Labels map[string]string
}

// EventType says what happened to a module.
type EventType string

// What may happen to a module.
const (
	EventCreated EventType = "created"
	EventStarted EventType = "started"
	EventExited  EventType = "exited"
	EventRemoved EventType = "removed"
	EventHealth  EventType = "health" // Health has changed
)

// Event is something that happened to a module. State is already changed when the
// event is sent.
type Event struct {
	Type   EventType
	Module string
	Time   time.Time
	// ExitCode is set for EventExited.
	ExitCode int
	// Health is set for EventHealth.
	Health Health
}

// Stream is where a module wrote a line.
type Stream int

// A module's streams, numbered as in the frames of the logs API.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// LogEntry is one line, or one piece of a line longer than 16 KiB.
type LogEntry struct {
	Time   time.Time
	Stream Stream
	// Line has its newline unless the piece is Partial or the module ended in the
	// middle of the line.
	Line []byte
	// Partial says that the line goes on in the next entry of the same stream.
	Partial bool
}

// LogOptions selects entries. The zero value is everything there is, without
// waiting for more.
type LogOptions struct {
	// Follow waits for more.
	Follow bool
	// Tail is the number of last entries to begin with; 0 is all of them. Use
	// TailNone for none (with Follow: only what is new).
	Tail int
	// Since and Until bound the time of the entries; zero is no bound. Since is
	// inclusive, Until exclusive.
	Since, Until time.Time
}

// TailNone asks for no old entries.
const TailNone = -1

// Info describes the engine.
type Info struct {
	Name    string // "containerd"
	Version string
}

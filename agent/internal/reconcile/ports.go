package reconcile

import (
	"context"
	"encoding/json"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/report"
)

// Daemon runs containers. Every call obeys its context.
type Daemon interface {
	Modules(ctx context.Context) ([]plan.Engine, error)
	Platform(ctx context.Context) (report.Platform, error)
	// Pull fetches the image and changes nothing that runs.
	Pull(ctx context.Context, s launch.Spec) error
	// KeepImages keeps images on the device, whatever their names come to mean; each call
	// replaces the list.
	KeepImages(ctx context.Context, hashes []string) error
	// Create makes a container, stopped.
	Create(ctx context.Context, s launch.Spec) error
	// Update replaces a container. For the agent's own it returns before the work.
	Update(ctx context.Context, s launch.Spec, start bool) error
	Start(ctx context.Context, module string) error
	Stop(ctx context.Context, module string) error
	Remove(ctx context.Context, module string) error
}

// Identities manages the device's module identities in the cloud.
type Identities interface {
	Identities(ctx context.Context) ([]launch.Identity, error)
	CreateIdentity(ctx context.Context, moduleID, managedBy string) (launch.Identity, error)
	UpdateIdentity(ctx context.Context, id launch.Identity) (launch.Identity, error)
	DeleteIdentity(ctx context.Context, moduleID string) error
}

// Twin is the agent's twin; *twin.Mirror is the real one.
type Twin interface {
	Desired() (section json.RawMessage, ok bool)
	Changed() <-chan struct{}
	Report(ctx context.Context, doc json.RawMessage) error
	ReportPart(ctx context.Context, patch json.RawMessage) error
}

// Cycle is what one cycle saw and did, for observers.
type Cycle struct {
	Modules map[string]Sample
	Worked  time.Duration // time of the plan; 0 when it was empty
}

// Sample is the state of one module at the end of a cycle.
type Sample struct {
	Version       string
	WantedRunning bool
	Correct       bool // in the wanted state
}

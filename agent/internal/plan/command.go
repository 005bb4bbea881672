package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

// Op is what a command does.
type Op string

// The operations.
const (
	Pull   Op = "pull"
	Create Op = "create"
	Update Op = "update" // stop, remove and create over an existing container
	Start  Op = "start"
	Stop   Op = "stop"
	Remove Op = "remove"
	Save   Op = "save"   // remember Restart
	Forget Op = "forget" // forget the saved restart state
	Group  Op = "group"  // Steps, in order, the first failure ends it
	// UpdateAgent replaces the agent's own container; the agent is stopped soon
	// after the daemon has accepted it.
	UpdateAgent Op = "updateAgent"
)

// Command is one step of a plan.
type Command struct {
	Op     Op
	Module string
	Spec   *manifest.Module // Pull, Create, Update, UpdateAgent
	// Wanted is set for a Start or Stop that follows a change of the wanted status.
	Wanted  manifest.Status
	Restart Restart   // Save
	Steps   []Command // Group
	// NeedsContainer: of no use when this plan could not make the container.
	NeedsContainer bool
	// Essential: when it fails or is in back-off, the rest of the plan is left.
	Essential bool
}

// ID tells commands apart across cycles: those that carry a specification by its
// hash, the others by operation and module. A group has one id for all its steps.
func (c Command) ID() string {
	if c.Op == Group {
		ids := make([]string, len(c.Steps))
		for i, s := range c.Steps {
			ids[i] = s.ID()
		}
		return "group(" + strings.Join(ids, ",") + ")"
	}
	if c.Spec == nil {
		return string(c.Op) + " " + c.Module
	}
	spec, err := json.Marshal(c.Spec)
	if err != nil {
		panic("plan: encode specification: " + err.Error())
	}
	sum := sha256.Sum256(spec)
	return string(c.Op) + " " + c.Module + " " + hex.EncodeToString(sum[:])
}

// String is one line for logs and golden files.
func (c Command) String() string {
	switch c.Op {
	case Group:
		parts := make([]string, len(c.Steps))
		for i, s := range c.Steps {
			parts[i] = s.String()
		}
		return "[" + strings.Join(parts, " -> ") + "]"
	case Pull:
		return fmt.Sprintf("pull %s %s", c.Module, c.Spec.Image)
	case Save:
		return fmt.Sprintf("save %s restarts=%d quick=%d", c.Module, c.Restart.Count, c.Restart.QuickExits)
	}
	return string(c.Op) + " " + c.Module
}

package handover

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	"github.com/breakwater-iot/breakwater/proto/atomicfile"
)

// phase is where the replacement of the agent stands.
type phase string

const (
	settled   phase = ""
	switching phase = "switching" // the container may be the old one's or the new one's
	trial     phase = "trial"
	returning phase = "returning"
)

// agent is what an agent's container is made from. The account of the registry is not
// part of it: the image is on the device.
type agent struct {
	Image string `json:"image"`
	// ImageID is the id of that image, whose name may go to another one; "" if it is not
	// known.
	ImageID string              `json:"imageHash,omitempty"`
	Env     []createopts.EnvVar `json:"env,omitempty"`
	Create  createopts.Options  `json:"createOptions"`
}

func agentOf(s module.Spec) *agent {
	return &agent{Image: s.Image, ImageID: s.ImageID, Env: s.Env, Create: s.Create}
}

// from is the agent with the image that its container was made from.
func (a *agent) from(st runtime.State) *agent {
	if a == nil || st.Image != a.Image {
		return a
	}
	b := *a
	b.ImageID = st.ImageID
	return &b
}

// spec makes the container without asking a registry.
func (a *agent) spec() module.Spec {
	return module.Spec{
		Name: module.Agent, Image: a.Image, ImageID: a.ImageID, Pull: runtime.PullNever, Env: a.Env, Create: a.Create,
	}
}

// key is the same for agents that a deployment describes in the same way, which is
// without the id of the image.
func (a agent) key() string {
	a.ImageID = ""
	doc, err := json.Marshal(a)
	if err != nil {
		panic("handover: encode agent: " + err.Error()) // texts, numbers and lists of them
	}
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:])
}

// record is the content of the file.
type record struct {
	Phase phase `json:"phase,omitempty"`
	// Current is what the container is made from, or is to be made from; nil when no
	// agent was made since there are such records.
	Current *agent `json:"current,omitempty"`
	// Good is the one to go back to; nil for the config's.
	Good *agent `json:"good,omitempty"`
	// Attempts counts how often the new one was started.
	Attempts int `json:"attempts,omitempty"`
	// Refused are those that were taken back since the last one that proved itself; the
	// newest last, at most maxRefused.
	Refused []refusal `json:"refused,omitempty"`
}

// maxRefused bounds what is remembered of agents that were no good. More than one
// matters: a deployment that is taken back may ask for an agent that was refused before.
const maxRefused = 8

// refuse adds to those that were taken back. Lists of records are not changed in place.
func (r *record) refuse(one refusal) {
	all := append(slices.Clone(r.Refused), one)
	r.Refused = all[max(0, len(all)-maxRefused):]
}

// refusal is about an agent that was taken back.
type refusal struct {
	Key    string    `json:"key"`
	Image  string    `json:"image"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

func (r refusal) String() string {
	return fmt.Sprintf("the agent with image %s was taken back at %s: %s", r.Image, r.Since.UTC().Format(time.RFC3339), r.Reason)
}

// load reads the file. Absence is the empty record.
func load(file string) (record, error) {
	var r record
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return record{}, fmt.Errorf("record of the agent: %w", err)
	}
	if r.Phase != settled && r.Current == nil {
		return record{}, fmt.Errorf("record of the agent: phase %q of nothing", r.Phase)
	}
	return r, nil
}

func save(file string, r record) error {
	text, err := json.Marshal(r)
	if err == nil {
		err = atomicfile.Write(file, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record of the agent: %w", err)
	}
	return nil
}

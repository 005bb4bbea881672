package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"strings"
)

// Names of the two system modules on the device.
const (
	AgentName = "edgeAgent"
	HubName   = "edgeHub"
)

// DefaultOrder is the startup order of a module that states none; it is last.
const DefaultOrder = math.MaxUint32

// Deployment is a valid manifest. It is not changed after Parse returned it.
type Deployment struct {
	Version int64   `json:"version"` // "$version" of the desired section
	Runtime Runtime `json:"runtime"`
	// Modules by name on the device, the system modules among them.
	Modules map[string]Module `json:"modules"`
	// Signed tells that an integrity section was there. It is not verified.
	Signed bool `json:"signed,omitempty"`
	// Safe is nil when the modules are deployed one by one, as the original does.
	Safe *Safe `json:"safe,omitempty"`
}

// Runtime is the runtime section.
type Runtime struct {
	Type             string     `json:"type"`
	MinDockerVersion string     `json:"minDockerVersion"`
	LoggingOptions   string     `json:"loggingOptions"`
	Registries       []Registry `json:"registries,omitempty"` // in the document's order
}

// Registry is one entry of registryCredentials.
type Registry struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Username string `json:"username"`
	Password Secret `json:"password"`
}

// Secret is a text that logs and errors show as stars. JSON carries it in clear,
// for the encrypted state file and the reported properties.
type Secret string

// String returns stars.
func (Secret) String() string { return "***" }

// GoString returns stars.
func (Secret) GoString() string { return "***" }

// LogValue returns stars.
func (Secret) LogValue() slog.Value { return slog.StringValue("***") }

// Module is one module as it is wanted. Modules are compared with Same.
type Module struct {
	Name          string            `json:"name"`
	Type          string            `json:"type"`
	Version       string            `json:"version,omitempty"`
	Status        Status            `json:"status"`
	Restart       RestartPolicy     `json:"restartPolicy"`
	Pull          PullPolicy        `json:"imagePullPolicy"`
	Order         uint32            `json:"startupOrder"`
	Env           map[string]string `json:"env,omitempty"`
	Image         string            `json:"image"`
	Digest        string            `json:"digest,omitempty"`
	CreateOptions string            `json:"createOptions"` // canonical JSON object
}

// Same tells whether m and o ask for the same container and treatment, the wanted
// status and the image left aside: both have causes of their own in the diff.
func (m Module) Same(o Module) bool {
	return m.Type == o.Type && m.Version == o.Version && m.Digest == o.Digest &&
		m.CreateOptions == o.CreateOptions && m.Restart == o.Restart &&
		m.Pull == o.Pull && m.Order == o.Order && maps.Equal(m.Env, o.Env)
}

// Fingerprint is the same for modules that are Same and have the same image. It names
// nothing of the module.
func (m Module) Fingerprint() string {
	m.Status = ""
	sum := sha256.Sum256(marshal(m))
	return hex.EncodeToString(sum[:])
}

// EnvJSON is env as a manifest writes it, with sorted names.
func (m Module) EnvJSON() json.RawMessage {
	type value struct {
		Value string `json:"value"`
	}
	env := make(map[string]value, len(m.Env))
	for k, v := range m.Env {
		env[k] = value{v}
	}
	return marshal(env)
}

// Status is what a module is wanted to do.
type Status string

// The two wanted states.
const (
	Running Status = "running"
	Stopped Status = "stopped"
)

// PullPolicy tells when the image is pulled.
type PullPolicy string

// The pull policies.
const (
	PullOnCreate PullPolicy = "on-create"
	PullNever    PullPolicy = "never"
)

// RestartPolicy tells after which ends a module is started again. Policies are
// ordered: each restarts in every case in which a smaller one does.
type RestartPolicy int

// The restart policies, in order.
const (
	RestartNever RestartPolicy = iota
	RestartOnFailure
	RestartOnUnhealthy
	RestartAlways
)

var restartNames = [...]string{"never", "on-failure", "on-unhealthy", "always"}

// String returns the manifest's word.
func (p RestartPolicy) String() string {
	if p < 0 || int(p) >= len(restartNames) {
		return fmt.Sprintf("RestartPolicy(%d)", int(p))
	}
	return restartNames[p]
}

// ParseRestartPolicy reads the manifest's word in any letter case.
func ParseRestartPolicy(s string) (RestartPolicy, error) {
	for i, name := range restartNames {
		if strings.EqualFold(s, name) {
			return RestartPolicy(i), nil
		}
	}
	return 0, fmt.Errorf("unknown restart policy %q", s)
}

// MarshalText writes the manifest's word.
func (p RestartPolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the manifest's word.
func (p *RestartPolicy) UnmarshalText(b []byte) error {
	v, err := ParseRestartPolicy(string(b))
	if err != nil {
		return err
	}
	*p = v
	return nil
}

// CloudID is the module id in the cloud of a module of the device.
func CloudID(name string) string {
	if name == AgentName || name == HubName {
		return "$" + name
	}
	return name
}

// Package launch turns a module of the manifest into what the daemon is asked to
// create: it adds the environment, the socket binds, the labels and the network
// that every module of this device gets (spec edgeagent 4).
package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

// ErrTakenBack is the daemon's refusal of an agent that it has tried and taken back. It
// stands until a deployment asks for another one.
var ErrTakenBack = errors.New("agent was taken back")

// ErrNotFound says that there is nothing of that name: the daemon, or the cloud that it has
// asked, does not know it.
var ErrNotFound = errors.New("not found")

// Host is what the agent knows about the device from its own environment.
type Host struct {
	HubName       string // IOTEDGE_IOTHUBHOSTNAME
	DeviceID      string
	Parent        string // IOTEDGE_GATEWAYHOSTNAME of the agent; empty when not nested
	HostName      string // EdgeDeviceHostName
	WorkloadURI   string
	ManagementURI string
	SocketsURI    string // IOTEDGE_WORKLOADLISTEN_MNTURI; empty: the shared socket
	APIVersion    string
	NetworkID     string
	LogLevel      string
	Upstream      string // UpstreamProtocol; empty when the agent has none
	// Registries are credentials from the agent's environment.
	Registries []manifest.Registry
}

// Identity is a module's identity in the cloud.
type Identity struct {
	ModuleID   string
	ManagedBy  string
	Generation string
}

// EnvVar is one variable of a container.
type EnvVar struct{ Key, Value string }

// Spec is what the daemon gets.
type Spec struct {
	Name       string
	Type       string
	Version    string // of the manifest; the daemon does not get it
	PullPolicy string // On-Create or Never
	Image      string
	Digest     string
	// ImageHash, if set, is the hash of the image that Image stood for once, and that is to
	// be used although the name may have gone to another one. No registry is asked.
	ImageHash     string
	Auth          *manifest.Registry
	CreateOptions map[string]any // JSON values, numbers as json.Number
	Env           []EnvVar       // sorted, names unique
}

// Build makes the specification for m. Credentials of the manifest are tried
// before those of the environment. The error tells of options that leave no place
// for what must be added, for instance a Binds that is no list.
func (h Host) Build(m manifest.Module, id Identity, credentials []manifest.Registry) (Spec, error) {
	s := Spec{
		Name: m.Name, Type: m.Type, Version: m.Version, Image: m.Image, Digest: m.Digest,
		PullPolicy: "On-Create", Env: h.env(m, id),
	}
	if m.Pull == manifest.PullNever {
		s.PullPolicy = "Never"
	}
	if r, ok := manifest.Credential(m.Image, credentials, h.Registries); ok {
		s.Auth = &r
	}
	dec := json.NewDecoder(strings.NewReader(m.CreateOptions))
	dec.UseNumber()
	if err := dec.Decode(&s.CreateOptions); err != nil {
		return Spec{}, fmt.Errorf("create options of %s: %w", m.Name, err)
	}
	if s.CreateOptions == nil {
		s.CreateOptions = map[string]any{}
	}
	delete(s.CreateOptions, "Image") // the image is that of the settings
	addLabels := func(m manifest.Module, options map[string]any) error { return h.addLabels(m, id, options) }
	for _, add := range []func(manifest.Module, map[string]any) error{h.addBinds, addLabels, h.addNetwork} {
		if err := add(m, s.CreateOptions); err != nil {
			return Spec{}, fmt.Errorf("create options of %s: %w", m.Name, err)
		}
	}
	return s, nil
}

func (h Host) env(m manifest.Module, id Identity) []EnvVar {
	env := maps.Clone(m.Env)
	if env == nil {
		env = map[string]string{}
	}
	for k, v := range map[string]string{
		"IOTEDGE_WORKLOADURI":        h.WorkloadURI,
		"IOTEDGE_MODULEID":           id.ModuleID,
		"IOTEDGE_MODULEGENERATIONID": id.Generation,
		"IOTEDGE_DEVICEID":           h.DeviceID,
		"IOTEDGE_IOTHUBHOSTNAME":     h.HubName,
		"IOTEDGE_AUTHSCHEME":         "sasToken",
		"IOTEDGE_APIVERSION":         h.APIVersion,
	} {
		env[k] = v
	}
	system := m.Name == manifest.AgentName || m.Name == manifest.HubName
	switch {
	case system && h.Parent != "":
		env["IOTEDGE_GATEWAYHOSTNAME"] = h.Parent
	case system:
		delete(env, "IOTEDGE_GATEWAYHOSTNAME")
	default:
		env["IOTEDGE_GATEWAYHOSTNAME"] = h.HostName
		if h.Parent != "" {
			env["IOTEDGE_PARENTHOSTNAME"] = h.Parent
		}
	}
	if system {
		env["EdgeDeviceHostName"] = h.HostName
	}
	if m.Name == manifest.AgentName {
		env["IOTEDGE_MANAGEMENTURI"] = h.ManagementURI
		env["Mode"] = "iotedged"
		setIf(env, "IOTEDGE_WORKLOADLISTEN_MNTURI", h.SocketsURI)
		setIf(env, "NetworkId", h.NetworkID)
	}
	offer(env, "RuntimeLogLevel", h.LogLevel)
	offer(env, "UpstreamProtocol", h.Upstream)

	list := make([]EnvVar, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, EnvVar{k, env[k]})
	}
	return list
}

func setIf(env map[string]string, key, value string) {
	if value != "" {
		env[key] = value
	}
}

// offer sets a variable unless the module has it, in any letter case.
func offer(env map[string]string, key, value string) {
	for k := range env {
		if strings.EqualFold(k, key) {
			return
		}
	}
	setIf(env, key, value)
}

// addLabels records on a container what it was made from, so that the next agent can tell
// a change from its own additions, and on the others whether there is one at all: it may
// not have the memory of this one.
func (h Host) addLabels(m manifest.Module, id Identity, options map[string]any) error {
	labels, err := object(options, "Labels")
	if err != nil {
		return err
	}
	if m.Name != manifest.AgentName {
		labels[plan.LabelModule] = m.Fingerprint()
		labels[plan.LabelGeneration] = id.Generation
		return nil
	}
	labels[plan.LabelOptions] = m.CreateOptions
	labels[plan.LabelEnv] = string(m.EnvJSON())
	return nil
}

// object returns the member of o with this name, made when absent.
func object(o map[string]any, name string) (map[string]any, error) {
	switch v := o[name].(type) {
	case nil:
		made := map[string]any{}
		o[name] = made
		return made, nil
	case map[string]any:
		return v, nil
	}
	return nil, fmt.Errorf("%s must be an object", name)
}

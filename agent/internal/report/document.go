package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
)

// Status codes of lastDesiredStatus that do not come from a refused manifest.
const (
	CodeSuccessful = 200
	CodeUnknown    = 406
	CodeFailed     = 500
)

// Status is lastDesiredStatus.
type Status struct {
	Code        int    `json:"code"`
	Description string `json:"description"`
}

// NotRunning is the status of the final report.
var NotRunning = Status{CodeUnknown, "Agent is not running"}

// Build names the agent's own version.
type Build struct {
	Version string `json:"version"`
	Build   string `json:"build"`
	Commit  string `json:"commit"`
}

// Platform is what the daemon says about the host.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Version      string `json:"version"`
}

// Input is all that a report tells.
type Input struct {
	Build          Build
	DesiredVersion int64
	Status         Status
	Runtime        *manifest.Runtime // nil before the first deployment
	Platform       Platform
	Modules        map[string]plan.Current
	Policy         plan.Policy
	// HideCredentials leaves registryCredentials out.
	HideCredentials bool
	// Safe tells of a safe deployment; nil when there is none.
	Safe *Safe
	// Ended makes every runtimeStatus unknown: the agent stops.
	Ended bool
}

// Safe is where a safe deployment stands. The member is our own; the original has
// none of this name.
type Safe struct {
	State   string
	Version int64 // of the deployment that is, or was, to be enforced
	// Fallback is the version that is returned to, 0 when there is none any more.
	Fallback int64
	Since    time.Time
	Reason   string
}

func (s *Safe) document() object {
	doc := object{"state": s.State, "version": s.Version, "since": timeText(s.Since), "reason": s.Reason}
	if s.Fallback != 0 {
		doc["fallbackVersion"] = s.Fallback
	}
	return doc
}

// MaxSize is the largest reported section that IoT Hub takes, in bytes.
const MaxSize = 32 * 1024

// Document returns the reported section. When it is larger than the hub takes,
// createOptions are left out, then env; dropped names what was left out.
func Document(in Input) (doc json.RawMessage, dropped []string, err error) {
	for _, drop := range [][]string{nil, {"createOptions"}, {"createOptions", "env"}} {
		b, err := encode(in.document(drop))
		if err != nil {
			return nil, nil, fmt.Errorf("reported properties: %w", err)
		}
		doc, dropped = b, drop
		if len(b) <= MaxSize {
			break
		}
	}
	return doc, dropped, nil
}

func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

type object = map[string]any

func (in Input) document(drop []string) object {
	system := object{
		manifest.AgentName: object{"type": "Unknown", "runtimeStatus": plan.Unknown, "imagePullPolicy": manifest.PullOnCreate},
		manifest.HubName:   object{"type": "Unknown", "runtimeStatus": plan.Unknown, "imagePullPolicy": manifest.PullOnCreate},
	}
	modules := object{}
	for name, c := range in.Modules {
		m := in.module(c)
		for _, key := range drop {
			if key == "env" {
				delete(m, key)
				continue
			}
			settings := m["settings"].(object)
			for _, chunk := range manifest.ChunkOptions(optionsOf(c)) {
				delete(settings, chunk.Key)
			}
		}
		switch name {
		case manifest.AgentName, manifest.HubName:
			system[name] = m
		default:
			modules[name] = m
		}
	}
	doc := object{
		"schemaVersion":      "1.0",
		"version":            in.Build,
		"lastDesiredVersion": in.DesiredVersion,
		"lastDesiredStatus":  in.Status,
		"runtime":            in.runtime(),
		"systemModules":      system,
		"modules":            modules,
	}
	if in.Safe != nil {
		doc["safeDeployment"] = in.Safe.document()
	}
	return doc
}

func (in Input) runtime() object {
	if in.Runtime == nil {
		return object{"type": "Unknown", "platform": in.Platform}
	}
	credentials := object{}
	if !in.HideCredentials {
		for _, r := range in.Runtime.Registries {
			credentials[r.Name] = object{"address": r.Address, "username": r.Username, "password": string(r.Password)}
		}
	}
	return object{
		"type": in.Runtime.Type,
		"settings": object{
			"minDockerVersion":    in.Runtime.MinDockerVersion,
			"loggingOptions":      in.Runtime.LoggingOptions,
			"registryCredentials": credentials,
		},
		"platform": in.Platform,
	}
}

func optionsOf(c plan.Current) string {
	switch {
	case c.Name == manifest.AgentName:
		if text, err := manifest.CanonicalOptions(c.Labels[plan.LabelOptions]); err == nil {
			return text
		}
	case c.Applied != nil:
		return c.Applied.CreateOptions
	}
	return "{}"
}

// module writes one module. One that this agent did not make has no manifest
// fields but the defaults.
func (in Input) module(c plan.Current) object {
	applied := manifest.Module{Type: "docker", Status: manifest.Running, Restart: manifest.RestartOnUnhealthy,
		Pull: manifest.PullOnCreate, Order: manifest.DefaultOrder}
	if c.Applied != nil {
		applied = *c.Applied
	}
	settings := object{"image": c.Image, "imageHash": c.ImageHash}
	for _, chunk := range manifest.ChunkOptions(optionsOf(c)) {
		settings[chunk.Key] = chunk.Text
	}
	m := object{
		"type":              applied.Type,
		"settings":          settings,
		"imagePullPolicy":   applied.Pull,
		"env":               in.env(c, applied),
		"exitCode":          c.ExitCode,
		"statusDescription": nil,
		"lastStartTimeUtc":  timeText(c.Started),
		"lastExitTimeUtc":   timeText(c.Exited),
		"runtimeStatus":     in.runtimeStatus(c, applied),
	}
	if c.Description != "" {
		m["statusDescription"] = c.Description
	}
	if applied.Digest != "" {
		settings["digest"] = applied.Digest
	}
	if c.Name == manifest.AgentName {
		return m
	}
	m["status"] = applied.Status
	m["restartPolicy"] = applied.Restart
	if applied.Order != manifest.DefaultOrder {
		m["startupOrder"] = applied.Order
	}
	if c.Name != manifest.HubName {
		m["version"] = applied.Version
	}
	m["restartCount"] = c.Restart.Count
	last := c.Restart.Last
	if last.IsZero() {
		last = c.Exited
	}
	m["lastRestartTimeUtc"] = timeText(last)
	return m
}

func (in Input) env(c plan.Current, applied manifest.Module) object {
	env := applied.Env
	if c.Name == manifest.AgentName {
		if labelled, err := manifest.ParseEnv(c.Labels[plan.LabelEnv]); err == nil {
			env = labelled
		}
	}
	out := object{}
	for k, v := range env {
		out[k] = object{"value": v}
	}
	return out
}

func (in Input) runtimeStatus(c plan.Current, applied manifest.Module) plan.State {
	switch {
	case in.Ended:
		return plan.Unknown
	case c.Name == manifest.AgentName || c.Applied == nil:
		return c.State
	}
	return in.Policy.StatusOf(c, applied.Status, applied.Restart)
}

// timeText writes seven decimals, as the original does, and its word for never.
func timeText(t time.Time) string {
	if t.IsZero() {
		return "0001-01-01T00:00:00Z"
	}
	return t.UTC().Format("2006-01-02T15:04:05.0000000Z")
}

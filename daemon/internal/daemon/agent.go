package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/redact"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// apiVersion is what modules are told to speak.
const apiVersion = "2022-08-03"

// agentSpec makes the bootstrap agent of the config. It registers the agent's
// identity, whose generation the container is told.
func (d *daemon) agentSpec(ctx context.Context) (module.Spec, error) {
	id, err := d.agentIdentity(ctx)
	if err != nil {
		return module.Spec{}, err
	}
	a := d.Config.Agent
	raw, err := json.Marshal(a.Config.CreateOptions)
	if err != nil {
		return module.Spec{}, fmt.Errorf("agent.config.createOptions: %w", err)
	}
	opts, warnings, err := createopts.Parse(raw)
	if err != nil {
		return module.Spec{}, fmt.Errorf("agent.config.createOptions: %w", err)
	}
	for _, w := range warnings {
		d.Log.WarnContext(ctx, "agent create option ignored", "path", w.Path, "reason", w.Reason)
	}
	if err := d.amend(&opts); err != nil {
		return module.Spec{}, err
	}
	spec := module.Spec{
		Name: a.Name, Image: a.Config.Image, Pull: runtime.PullPolicy(a.PullPolicy),
		Auth: runtime.Auth{
			ServerAddress: a.Config.Auth.ServerAddress, Username: a.Config.Auth.Username,
			Password: runtime.Secret(a.Config.Auth.Password),
		},
		Env: d.agentEnv(id.GenerationID), Create: opts,
	}
	return spec, nil
}

// kept are the ids of images to which the agent, or the daemon for the agent, may go back.
func (d *daemon) kept() []string { return append(d.imagesKept.IDs(), d.handover.Images()...) }

// agentIdentity registers the agent's keys; without the cloud the remembered
// identity will do.
func (d *daemon) agentIdentity(ctx context.Context) (identity.Identity, error) {
	id, err := d.identities.Update(ctx, iothub.AgentModule, "", "")
	if !errors.Is(err, identity.ErrUnavailable) {
		return id, err
	}
	known, lookupErr := d.identities.Lookup(ctx, iothub.AgentModule)
	if lookupErr != nil {
		return identity.Identity{}, err
	}
	d.Log.WarnContext(ctx, "agent identity taken from the cache", "error", err)
	return known, nil
}

// amend adds what every bootstrap agent has: its two sockets, the network, and
// the labels by which the agent later knows how it was made.
func (d *daemon) amend(opts *createopts.Options) error {
	inside := d.Config.Connect
	workloadPath, err := config.SocketPath(inside.Workload)
	if err != nil {
		return err
	}
	managementPath, err := config.SocketPath(inside.Management)
	if err != nil {
		return err
	}
	opts.HostConfig.Binds = append(opts.HostConfig.Binds,
		d.sockets.Path(module.Agent)+":"+workloadPath, d.managementPath+":"+managementPath)
	if opts.NetworkingConfig == nil && opts.HostConfig.NetworkMode == "" {
		opts.NetworkingConfig = &createopts.NetworkingConfig{
			EndpointsConfig: map[string]*createopts.Endpoint{d.Config.Containerd.Network: {}},
		}
	}
	labels := map[string]string{
		"net.azure-devices.edge.create-options": "{}",
		"net.azure-devices.edge.env":            "{}",
	}
	maps.Copy(labels, opts.Labels)
	opts.Labels = labels
	return nil
}

// agentEnv is the bootstrap environment (spec security-daemon 7.2) above the
// config's [agent.env].
func (d *daemon) agentEnv(generation string) []createopts.EnvVar {
	cfg := d.Config
	env := maps.Clone(cfg.Agent.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, map[string]string{
		"IOTEDGE_WORKLOADURI":           cfg.Connect.Workload,
		"IOTEDGE_MANAGEMENTURI":         cfg.Connect.Management,
		"IOTEDGE_WORKLOADLISTEN_MNTURI": "unix://" + d.sockets.Dir(),
		"IOTEDGE_DEVICEID":              cfg.Device.DeviceID,
		"IOTEDGE_MODULEID":              iothub.AgentModule,
		"IOTEDGE_MODULEGENERATIONID":    generation,
		"IOTEDGE_IOTHUBHOSTNAME":        cfg.Device.HubName,
		"EdgeDeviceHostName":            cfg.Hostname,
		"IOTEDGE_AUTHSCHEME":            "sasToken",
		"IOTEDGE_APIVERSION":            apiVersion,
		"Mode":                          "iotedged",
		"NetworkId":                     cfg.Containerd.Network,
	})
	// Only below a parent: what is set in [agent.env] by mistake would lead the agent
	// astray.
	delete(env, "IOTEDGE_GATEWAYHOSTNAME")
	if cfg.Device.Nested() {
		env["IOTEDGE_GATEWAYHOSTNAME"] = cfg.Device.Gateway
	}
	out := make([]createopts.EnvVar, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, createopts.EnvVar{Key: k, Value: env[k]})
	}
	return out
}

// agentLastWords is the end of the agent's log in one short line, for the reason why it
// is replaced; its container goes, and the log with it. Secrets are covered before
// anything is cut off: the reason is reported to the cloud.
func (d *daemon) agentLastWords(ctx context.Context) string {
	const most = 300 // bytes
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var text bytes.Buffer
	covered := redact.NewWriter(&text)
	for e, err := range d.Runtime.Logs(ctx, module.Agent, runtime.LogOptions{Tail: 3}) {
		if err != nil {
			break
		}
		_, _ = covered.Write(append(bytes.TrimRight(e.Line, "\r\n"), '\n')) // to memory: never fails
	}
	_ = covered.Close()
	return oneLine(text.String(), most)
}

// oneLine is the end of a text, without repeated lines, in one line of at most so many
// bytes.
func oneLine(text string, most int) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	line := strings.Join(slices.Compact(lines), " ")
	if len(line) > most {
		line = line[len(line)-most:]
	}
	return strings.ToValidUTF8(line, "")
}

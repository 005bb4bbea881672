package edged

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/breakwater-iot/breakwater/agent/internal/launch"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// Modules lists the containers of this runtime.
func (c *Client) Modules(ctx context.Context) ([]plan.Engine, error) {
	res, err := c.modules.List(ctx, &managementv1.ListRequest{})
	if err != nil {
		return nil, callError("list modules", err)
	}
	list := make([]plan.Engine, 0, len(res.GetModules()))
	for _, d := range res.GetModules() {
		list = append(list, engine(d))
	}
	return list, nil
}

// Pull fetches the image of s.
func (c *Client) Pull(ctx context.Context, s launch.Spec) error {
	spec, err := moduleSpec(s)
	if err != nil {
		return err
	}
	_, err = c.modules.PrepareUpdate(ctx, &managementv1.PrepareUpdateRequest{Name: s.Name, Spec: spec})
	return callError("pull image of "+s.Name, err)
}

// KeepImages keeps the images with these hashes on the device, although no container is
// made from them and their names may go to other images, until the next call. A daemon
// that has no such call keeps none.
func (c *Client) KeepImages(ctx context.Context, hashes []string) error {
	_, err := c.modules.KeepImages(ctx, &managementv1.KeepImagesRequest{ImageHashes: hashes})
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	return callError("keep images", err)
}

// Create makes a stopped container.
func (c *Client) Create(ctx context.Context, s launch.Spec) error {
	spec, err := moduleSpec(s)
	if err != nil {
		return err
	}
	_, err = c.modules.Create(ctx, &managementv1.CreateRequest{Spec: spec})
	return callError("create "+s.Name, err)
}

// Update replaces a container.
func (c *Client) Update(ctx context.Context, s launch.Spec, start bool) error {
	spec, err := moduleSpec(s)
	if err != nil {
		return err
	}
	_, err = c.modules.Update(ctx, &managementv1.UpdateRequest{Name: s.Name, Start: start, Spec: spec})
	return callError("update "+s.Name, err)
}

// Start starts a container.
func (c *Client) Start(ctx context.Context, module string) error {
	_, err := c.modules.Start(ctx, &managementv1.StartRequest{Name: module})
	return callError("start "+module, err)
}

// Stop stops a container.
func (c *Client) Stop(ctx context.Context, module string) error {
	_, err := c.modules.Stop(ctx, &managementv1.StopRequest{Name: module})
	return callError("stop "+module, err)
}

// Restart stops and starts a container.
func (c *Client) Restart(ctx context.Context, module string) error {
	_, err := c.modules.Restart(ctx, &managementv1.RestartRequest{Name: module})
	return callError("restart "+module, err)
}

// Remove removes a container, running or not. One that is not there is removed.
func (c *Client) Remove(ctx context.Context, module string) error {
	_, err := c.modules.Delete(ctx, &managementv1.DeleteRequest{Name: module})
	if err = callError("remove "+module, err); errors.Is(err, launch.ErrNotFound) {
		return nil
	}
	return err
}

func moduleSpec(s launch.Spec) (*managementv1.ModuleSpec, error) {
	// Numbers travel as doubles; JSON text in between keeps the conversion in one
	// place and refuses what a Struct cannot hold.
	settings := map[string]any{"image": s.Image, "createOptions": s.CreateOptions}
	if s.Digest != "" {
		settings["digest"] = s.Digest
	}
	if s.ImageHash != "" {
		settings["imageHash"] = s.ImageHash
	}
	if s.Auth != nil {
		settings["auth"] = map[string]any{
			"serveraddress": s.Auth.Address, "username": s.Auth.Username, "password": string(s.Auth.Password),
		}
	}
	b, err := json.Marshal(settings)
	if err != nil {
		return nil, fmt.Errorf("settings of %s cannot be encoded", s.Name)
	}
	st := &structpb.Struct{}
	if err := st.UnmarshalJSON(b); err != nil {
		return nil, fmt.Errorf("settings of %s do not fit the management API", s.Name)
	}
	env := make([]*managementv1.EnvVar, len(s.Env))
	for i, e := range s.Env {
		env[i] = &managementv1.EnvVar{Key: e.Key, Value: e.Value}
	}
	return &managementv1.ModuleSpec{
		Name: s.Name, Type: s.Type, ImagePullPolicy: s.PullPolicy,
		Config: &managementv1.ModuleConfig{Settings: st, Env: env},
	}, nil
}

func engine(d *managementv1.ModuleDetails) plan.Engine {
	settings := d.GetConfig().GetSettings().GetFields()
	e := plan.Engine{
		Name:        d.GetName(),
		Image:       settings["image"].GetStringValue(),
		ImageHash:   settings["imageHash"].GetStringValue(),
		State:       stateOf(d.GetStatus().GetRuntimeStatus().GetStatus()),
		Description: d.GetStatus().GetRuntimeStatus().GetDescription(),
		Started:     timeOf(d.GetStatus().GetStartTime()),
		Exited:      timeOf(d.GetStatus().GetExitStatus().GetExitTime()),
		Labels:      map[string]string{},
	}
	if code, err := strconv.Atoi(d.GetStatus().GetExitStatus().GetStatusCode()); err == nil {
		e.ExitCode = code
	}
	if e.State == plan.Running {
		switch d.GetStatus().GetRuntimeStatus().GetHealth() {
		case "unhealthy":
			e.State = plan.Unhealthy
		case "starting":
			e.Probing = true
		}
	}
	labels := settings["createOptions"].GetStructValue().GetFields()["Labels"].GetStructValue().GetFields()
	for k, v := range labels {
		e.Labels[k] = v.GetStringValue()
	}
	if original := e.Labels[plan.LabelImage]; original != "" {
		e.Image = original
	}
	return e
}

func stateOf(s string) plan.State {
	switch st := plan.State(s); st {
	case plan.Running, plan.Stopped, plan.Failed, plan.Dead:
		return st
	}
	return plan.Unknown
}

// timeOf reads RFC 3339; absence and nonsense are the zero time, and so is year 1,
// which some engines write for never.
func timeOf(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t.UTC()
}

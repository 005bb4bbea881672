package management

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/createopts"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// settings is config.settings of a module spec. The password lives in a type that
// prints as stars.
type settings struct {
	Image string `json:"image"`
	// ImageHash, as in the answers, names the content that Image stood for once. The
	// original's settings do not have it.
	ImageHash     string          `json:"imageHash"`
	CreateOptions json.RawMessage `json:"createOptions"`
	Auth          *struct {
		ServerAddress string         `json:"serveraddress"`
		Username      string         `json:"username"`
		Password      registrySecret `json:"password"`
	} `json:"auth"`
}

// registrySecret decodes as text into the secret type.
type registrySecret struct{ runtime.Secret }

func (s *registrySecret) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, (*string)(&s.Secret))
}

// spec reads a module spec; name, if given, must be the one in it. Errors are gRPC
// statuses.
func (s *Modules) spec(ctx context.Context, name string, m *managementv1.ModuleSpec) (module.Spec, error) {
	switch {
	case m == nil:
		return module.Spec{}, invalid("spec: missing")
	case name != "" && m.GetName() != name:
		return module.Spec{}, invalid("name: %q in the spec, %q in the request", m.GetName(), name)
	case m.GetType() != "docker":
		return module.Spec{}, invalid("type: %q is not \"docker\"", m.GetType())
	}
	if err := runtime.CheckName(m.GetName()); err != nil {
		return module.Spec{}, invalid("%v", err)
	}
	pull, err := policy(m.GetImagePullPolicy())
	if err != nil {
		return module.Spec{}, err
	}
	out := module.Spec{Name: m.GetName(), Pull: pull}
	for _, v := range m.GetConfig().GetEnv() {
		out.Env = append(out.Env, createopts.EnvVar{Key: v.GetKey(), Value: v.GetValue()})
	}
	return s.settings(ctx, out, m.GetConfig().GetSettings())
}

func (s *Modules) settings(ctx context.Context, out module.Spec, st *structpb.Struct) (module.Spec, error) {
	data, err := json.Marshal(st.AsMap())
	if err != nil {
		return module.Spec{}, invalid("settings: not representable")
	}
	var set settings
	// The error of the decoder names a member and a kind, never a value.
	if err := json.Unmarshal(data, &set); err != nil {
		return module.Spec{}, invalid("settings: %v", err)
	}
	if set.Image == "" {
		return module.Spec{}, invalid("settings.image: missing")
	}
	opts, warnings, err := createopts.Parse(set.CreateOptions)
	if err != nil {
		return module.Spec{}, invalid("settings.createOptions: %v", err)
	}
	for _, w := range warnings {
		s.Log.WarnContext(ctx, "create option ignored", "module", out.Name, "path", w.Path, "reason", w.Reason)
	}
	out.Image, out.ImageID, out.Create = set.Image, set.ImageHash, opts
	if set.Auth != nil {
		out.Auth = runtime.Auth{
			ServerAddress: set.Auth.ServerAddress, Username: set.Auth.Username, Password: set.Auth.Password.Secret,
		}
	}
	return out, nil
}

// describe writes a module's state as the API shows it.
func describe(st runtime.State) (*managementv1.ModuleDetails, error) {
	out, err := details(st.Name, st.Image, st.ImageID, st.Labels, module.StatusWord(st))
	if err != nil {
		return nil, err
	}
	if st.Health != "" {
		h := string(st.Health)
		out.Status.RuntimeStatus.Health = &h
		if st.HealthOutput != "" && st.Health == runtime.Unhealthy {
			text := "unhealthy: " + st.HealthOutput
			out.Status.RuntimeStatus.Description = &text
		}
	}
	if !st.Started.IsZero() {
		t := st.Started.UTC().Format(time.RFC3339Nano)
		out.Status.StartTime = &t
	}
	if !st.Exited.IsZero() {
		out.Status.ExitStatus = &managementv1.ExitStatus{
			ExitTime: st.Exited.UTC().Format(time.RFC3339Nano), StatusCode: strconv.Itoa(st.ExitCode),
		}
	}
	return out, nil
}

// promised describes a module that is about to be made.
func promised(spec module.Spec) (*managementv1.ModuleDetails, error) {
	return details(spec.Name, spec.Image, "", spec.Create.Labels, "stopped")
}

func details(name, image, hash string, labels map[string]string, word string) (*managementv1.ModuleDetails, error) {
	l := make(map[string]any, len(labels))
	for k, v := range labels {
		l[k] = v
	}
	set, err := structpb.NewStruct(map[string]any{
		"image": image, "imageHash": hash, "createOptions": map[string]any{"Labels": l},
	})
	if err != nil {
		return nil, invalid("labels: %v", err)
	}
	return &managementv1.ModuleDetails{
		Id: "id", Name: name, Type: "docker",
		Config: &managementv1.ModuleConfig{Settings: set},
		Status: &managementv1.ModuleStatus{RuntimeStatus: &managementv1.RuntimeStatus{Status: word}},
	}, nil
}

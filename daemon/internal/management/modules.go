// Package management is the management API: what the agent, and for reading an
// operator, may ask of the daemon. Who asks was decided before a call gets here
// (package peer).
package management

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/breakwater-iot/breakwater/daemon/internal/handover"
	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/peer"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// Policy says who may call which method of the management API.
func Policy() peer.Policy {
	return peer.Policy{
		managementv1.Modules_List_FullMethodName:          peer.AgentOrAdmin,
		managementv1.Modules_Get_FullMethodName:           peer.AgentOrAdmin,
		managementv1.Modules_Create_FullMethodName:        peer.Agent,
		managementv1.Modules_Update_FullMethodName:        peer.Agent,
		managementv1.Modules_Delete_FullMethodName:        peer.Agent,
		managementv1.Modules_Start_FullMethodName:         peer.AgentOrAdmin,
		managementv1.Modules_Stop_FullMethodName:          peer.AgentOrAdmin,
		managementv1.Modules_Restart_FullMethodName:       peer.AgentOrAdmin,
		managementv1.Modules_PrepareUpdate_FullMethodName: peer.Agent,
		managementv1.Modules_KeepImages_FullMethodName:    peer.Agent,
		managementv1.Modules_Logs_FullMethodName:          peer.AgentOrAdmin,
		managementv1.Modules_Watch_FullMethodName:         peer.Agent,
		managementv1.Identities_List_FullMethodName:       peer.AgentOrAdmin,
		managementv1.Identities_Create_FullMethodName:     peer.Agent,
		managementv1.Identities_Update_FullMethodName:     peer.Agent,
		managementv1.Identities_Delete_FullMethodName:     peer.Agent,
		managementv1.System_GetInfo_FullMethodName:        peer.AgentOrAdmin,
		managementv1.System_GetResources_FullMethodName:   peer.AgentOrAdmin,
		managementv1.System_Reprovision_FullMethodName:    peer.AgentOrAdmin,
		managementv1.System_SupportBundle_FullMethodName:  peer.AgentOrAdmin,
		healthv1.Health_Check_FullMethodName:              peer.Anybody,
	}
}

// Modules implements the Modules service. All fields are needed.
type Modules struct {
	managementv1.UnimplementedModulesServer

	Manager *module.Manager
	// Agent replaces the agent; *handover.Handover does.
	Agent Agent
	// Kept remembers the images that the agent needs; *imagegc.Kept does.
	Kept interface{ Set(ids []string) error }
	// Observer gives logs and events.
	Observer runtime.Observer
	// Background bounds updates that outlive their call.
	Background context.Context
	Log        *slog.Logger
}

// Agent replaces the agent.
type Agent interface {
	// Check refuses what is known to be no good.
	Check(spec module.Spec) error
	// Update begins and returns; ctx bounds the work.
	Update(ctx context.Context, spec module.Spec, start bool) error
	// Note is what is to be known of the last replacement, "" for nothing.
	Note() string
}

var _ managementv1.ModulesServer = (*Modules)(nil)

// List lists all modules. A daemon that ends lists none: the agent, which ends first, would
// take what it sees for what stays.
func (s *Modules) List(ctx context.Context, _ *managementv1.ListRequest) (*managementv1.ListResponse, error) {
	if err := s.Manager.Refusing(); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	all, err := s.Manager.List(ctx)
	if err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	out := &managementv1.ListResponse{Modules: make([]*managementv1.ModuleDetails, 0, len(all))}
	for _, st := range all {
		d, err := s.describe(st)
		if err != nil {
			return nil, fail(ctx, s.Log, err)
		}
		out.Modules = append(out.Modules, d)
	}
	return out, nil
}

// Get returns one module.
func (s *Modules) Get(ctx context.Context, r *managementv1.GetRequest) (*managementv1.ModuleDetails, error) {
	st, err := s.Manager.Get(ctx, r.GetName())
	if err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return s.describe(st)
}

// describe adds to the agent's state what is to be known of its replacement.
func (s *Modules) describe(st runtime.State) (*managementv1.ModuleDetails, error) {
	d, err := describe(st)
	if err != nil || st.Name != module.Agent {
		return d, err
	}
	if note := s.Agent.Note(); note != "" {
		if have := d.GetStatus().GetRuntimeStatus().GetDescription(); have != "" {
			note = have + "; " + note
		}
		d.Status.RuntimeStatus.Description = &note
	}
	return d, nil
}

// Create makes a module, stopped.
func (s *Modules) Create(ctx context.Context, r *managementv1.CreateRequest) (*managementv1.ModuleDetails, error) {
	spec, err := s.spec(ctx, "", r.GetSpec())
	if err != nil {
		return nil, err
	}
	if err := s.Manager.Create(ctx, spec); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return s.Get(ctx, &managementv1.GetRequest{Name: spec.Name})
}

// Update replaces a module. For the agent it answers first and works afterwards.
func (s *Modules) Update(ctx context.Context, r *managementv1.UpdateRequest) (*managementv1.ModuleDetails, error) {
	spec, err := s.spec(ctx, r.GetName(), r.GetSpec())
	if err != nil {
		return nil, err
	}
	if spec.Name == module.Agent {
		if err := s.Agent.Update(s.Background, spec, r.GetStart()); err != nil {
			return nil, fail(ctx, s.Log, err)
		}
		return promised(spec)
	}
	if err := s.Manager.Update(ctx, spec, r.GetStart()); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return s.Get(ctx, &managementv1.GetRequest{Name: spec.Name})
}

// Delete removes a module.
func (s *Modules) Delete(ctx context.Context, r *managementv1.DeleteRequest) (*managementv1.DeleteResponse, error) {
	return answer(ctx, s, &managementv1.DeleteResponse{}, s.Manager.Delete(ctx, r.GetName()))
}

// Start starts a module.
func (s *Modules) Start(ctx context.Context, r *managementv1.StartRequest) (*managementv1.StartResponse, error) {
	return answer(ctx, s, &managementv1.StartResponse{}, s.Manager.Start(ctx, r.GetName()))
}

// Stop stops a module.
func (s *Modules) Stop(ctx context.Context, r *managementv1.StopRequest) (*managementv1.StopResponse, error) {
	return answer(ctx, s, &managementv1.StopResponse{}, s.Manager.Stop(ctx, r.GetName()))
}

// Restart stops and starts a module.
func (s *Modules) Restart(ctx context.Context, r *managementv1.RestartRequest) (*managementv1.RestartResponse, error) {
	return answer(ctx, s, &managementv1.RestartResponse{}, s.Manager.Restart(ctx, r.GetName()))
}

// PrepareUpdate pulls an image.
func (s *Modules) PrepareUpdate(ctx context.Context, r *managementv1.PrepareUpdateRequest) (*managementv1.PrepareUpdateResponse, error) {
	spec, err := s.spec(ctx, r.GetName(), r.GetSpec())
	if err != nil {
		return nil, err
	}
	if spec.Name == module.Agent {
		if err := s.Agent.Check(spec); err != nil {
			return nil, fail(ctx, s.Log, err)
		}
	}
	return answer(ctx, s, &managementv1.PrepareUpdateResponse{}, s.Manager.PrepareUpdate(ctx, spec))
}

// maxKept bounds how many images the agent may need.
const maxKept = 256

// KeepImages keeps the images that the agent may go back to, and releases others.
func (s *Modules) KeepImages(ctx context.Context, r *managementv1.KeepImagesRequest) (*managementv1.KeepImagesResponse, error) {
	if len(r.GetImageHashes()) > maxKept {
		return nil, invalid("image_hashes: %d, want at most %d", len(r.GetImageHashes()), maxKept)
	}
	for _, id := range r.GetImageHashes() {
		if !strings.HasPrefix(id, "sha256:") || len(id) != len("sha256:")+64 {
			return nil, invalid("image_hashes: %q is no hash of an image", id)
		}
	}
	if err := s.Kept.Set(r.GetImageHashes()); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	s.Manager.ReleaseImages(ctx)
	return &managementv1.KeepImagesResponse{}, nil
}

func answer[T any](ctx context.Context, s *Modules, ok *T, err error) (*T, error) {
	if err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return ok, nil
}

// failures sorts errors of the parts below into gRPC codes; the first match counts.
var failures = []struct {
	err  error
	code codes.Code
}{
	{handover.ErrTakenBack, codes.Aborted}, // the only use of this code: the agent tells by it
	{runtime.ErrExists, codes.AlreadyExists},
	{runtime.ErrUntrusted, codes.FailedPrecondition},
	{runtime.ErrInvalid, codes.InvalidArgument},
	{runtime.ErrImageNotFound, codes.NotFound},
	{runtime.ErrNotFound, codes.NotFound},
	{runtime.ErrUnauthorized, codes.FailedPrecondition},
	{runtime.ErrInUse, codes.FailedPrecondition},
	{runtime.ErrNoSpace, codes.Unavailable}, // not ResourceExhausted, which REST answers with 429
	{runtime.ErrUnavailable, codes.Unavailable},
	{identity.ErrInvalid, codes.InvalidArgument},
	{identity.ErrNotFound, codes.NotFound},
	{identity.ErrRefused, codes.FailedPrecondition},
	{identity.ErrUnavailable, codes.Unavailable},
	{module.ErrClosing, codes.FailedPrecondition}, // to ask again soon is of no use
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

func fail(ctx context.Context, log *slog.Logger, err error) error {
	code := codes.Internal
	for _, f := range failures {
		if errors.Is(err, f.err) {
			code = f.code
			break
		}
	}
	log.WarnContext(ctx, "management call failed", "code", code, "error", err)
	return status.Error(code, err.Error())
}

func invalid(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf(format, args...))
}

// policy reads imagePullPolicy, in any case; empty is on-create.
func policy(s string) (runtime.PullPolicy, error) {
	switch strings.ToLower(s) {
	case "", "on-create":
		return runtime.PullOnCreate, nil
	case "never":
		return runtime.PullNever, nil
	}
	return "", invalid("imagePullPolicy %q: want On-Create or Never", s)
}

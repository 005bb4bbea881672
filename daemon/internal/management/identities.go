package management

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/breakwater-iot/breakwater/daemon/internal/identity"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// Registrar manages module identities; *identity.Manager does.
type Registrar interface {
	List(ctx context.Context) ([]identity.Identity, error)
	Create(ctx context.Context, module, managedBy string) (identity.Identity, error)
	Update(ctx context.Context, module, generation, managedBy string) (identity.Identity, error)
	Delete(ctx context.Context, module string) error
}

// Identities implements the Identities service. All fields are needed.
type Identities struct {
	managementv1.UnimplementedIdentitiesServer

	Registrar Registrar
	Log       *slog.Logger
}

var _ managementv1.IdentitiesServer = (*Identities)(nil)

// List lists the device's module identities.
func (s *Identities) List(ctx context.Context, _ *managementv1.ListIdentitiesRequest) (*managementv1.ListIdentitiesResponse, error) {
	all, err := s.Registrar.List(ctx)
	if err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	out := &managementv1.ListIdentitiesResponse{}
	for _, i := range all {
		out.Identities = append(out.Identities, document(i, ""))
	}
	return out, nil
}

// Create registers a module.
func (s *Identities) Create(ctx context.Context, r *managementv1.CreateIdentityRequest) (*managementv1.Identity, error) {
	i, err := s.Registrar.Create(ctx, r.GetModuleId(), r.GetManagedBy())
	if err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return document(i, r.GetManagedBy()), nil
}

// Update registers a module's keys again.
func (s *Identities) Update(ctx context.Context, r *managementv1.UpdateIdentityRequest) (*managementv1.Identity, error) {
	i, err := s.Registrar.Update(ctx, r.GetModuleId(), r.GetGenerationId(), r.GetManagedBy())
	if err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return document(i, r.GetManagedBy()), nil
}

// Delete removes a module identity.
func (s *Identities) Delete(ctx context.Context, r *managementv1.DeleteIdentityRequest) (*managementv1.DeleteIdentityResponse, error) {
	if err := s.Registrar.Delete(ctx, r.GetModuleId()); err != nil {
		return nil, fail(ctx, s.Log, err)
	}
	return &managementv1.DeleteIdentityResponse{}, nil
}

// document writes an identity; a manager that the registry did not keep is echoed.
func document(i identity.Identity, asked string) *managementv1.Identity {
	return &managementv1.Identity{
		ModuleId: i.ModuleID, GenerationId: i.GenerationID,
		ManagedBy: cmp.Or(i.ManagedBy, asked), AuthType: "sas",
	}
}

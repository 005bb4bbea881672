package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/breakwater-iot/breakwater/hub/internal/scope"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// cloudScope lists the scope of the edge device through the cloud's REST API, in
// the nested form: level by level, one call for each edge device.
type cloudScope struct {
	client *rest.Client
	device string
}

// CloudScope returns the scope of the edge device as the cloud's registry has it.
func CloudScope(c *rest.Client, device string) scope.Source {
	return cloudScope{client: c, device: device}
}

const (
	scopePageSize = 100
	// maxScopeDepth bounds the walk: deeper devices cannot authenticate.
	maxScopeDepth = 5
)

// List walks the scope breadth first.
func (s cloudScope) List(ctx context.Context) ([]scope.Entry, error) {
	var entries []scope.Entry
	seen := map[string]bool{s.device: true}
	level := map[string]string{s.device: s.device} // edge device to its auth chain
	for depth := 0; depth < maxScopeDepth && len(level) > 0; depth++ {
		next := make(map[string]string)
		for device, chain := range level {
			page := rest.ScopePage{PageSize: scopePageSize, AuthChain: chain}
			err := s.client.ScopeAll(ctx, s.device, page, func(r rest.ScopeResult) error {
				entries = append(entries, toEntries(r)...)
				for _, d := range r.Devices {
					if d.IsEdge() && !seen[d.DeviceID] {
						seen[d.DeviceID] = true
						next[d.DeviceID] = d.DeviceID + ";" + chain
					}
				}
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("scope of %s: %w", device, err)
			}
		}
		level = next
	}
	return entries, nil
}

// Get asks for one identity.
func (s cloudScope) Get(ctx context.Context, id iothub.Identity, chain string) (scope.Entry, error) {
	r, err := s.client.ScopeGet(ctx, s.device, id, cmp.Or(chain, s.device))
	var refused *rest.Error
	if errors.As(err, &refused) {
		switch refused.Status {
		case http.StatusBadRequest, http.StatusNotFound:
			return scope.Entry{}, fmt.Errorf("%w: %w", scope.ErrUnknown, err)
		case http.StatusUnauthorized, http.StatusForbidden:
			return scope.Entry{}, fmt.Errorf("%w: %w", scope.ErrForbidden, err)
		}
	}
	if err != nil {
		return scope.Entry{}, err
	}
	for _, e := range toEntries(r) {
		if e.ID == id {
			return e, nil
		}
	}
	return scope.Entry{}, fmt.Errorf("%w: %s", scope.ErrUnknown, id)
}

// toEntries leaves out what has an id that no client can log in with.
func toEntries(r rest.ScopeResult) []scope.Entry {
	entries := make([]scope.Entry, 0, len(r.Devices)+len(r.Modules))
	for _, d := range r.Devices {
		if iothub.CheckID(d.DeviceID) != nil {
			continue
		}
		e := scope.Entry{
			ID: iothub.DeviceIdentity(d.DeviceID), GenerationID: d.GenerationID, Enabled: d.Status != rest.Disabled,
			Edge: d.IsEdge(), DeviceScope: d.DeviceScope, ParentScopes: d.ParentScopes,
		}
		credentials(&e, d.Authentication)
		entries = append(entries, e)
	}
	for _, m := range r.Modules {
		if iothub.CheckID(m.DeviceID) != nil || iothub.CheckID(m.ModuleID) != nil {
			continue
		}
		e := scope.Entry{ID: iothub.ModuleIdentity(m.DeviceID, m.ModuleID), GenerationID: m.GenerationID, Enabled: true}
		credentials(&e, m.Authentication)
		entries = append(entries, e)
	}
	return entries
}

// credentials fills in how the identity authenticates. A key that cannot be read
// leaves the identity without credentials: it does not spoil the others.
func credentials(e *scope.Entry, a *rest.Authentication) {
	e.Auth = scope.None
	if a == nil {
		return
	}
	switch a.Type {
	case rest.AuthSAS:
		primary, err1 := sas.ParseKey(a.SymmetricKey.PrimaryKey.Reveal())
		secondary, err2 := sas.ParseKey(a.SymmetricKey.SecondaryKey.Reveal())
		if err1 == nil {
			e.Primary = primary
		}
		if err2 == nil {
			e.Secondary = secondary
		}
		if err1 == nil || err2 == nil {
			e.Auth = scope.SAS
		}
	case rest.AuthSelfSigned:
		e.Auth = scope.SelfSigned
		for _, t := range []rest.Text{a.X509Thumbprint.PrimaryThumbprint, a.X509Thumbprint.SecondaryThumbprint} {
			if t != "" {
				e.Thumbprints = append(e.Thumbprints, string(t))
			}
		}
	case rest.AuthCertificate:
		e.Auth = scope.CertificateAuthority
	}
}

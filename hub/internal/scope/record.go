package scope

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// record is an Entry as it lies, sealed, on disk. It has a form of its own because
// keys do not marshal by themselves.
type record struct {
	ID           string   `json:"id"`
	GenerationID string   `json:"generationId"`
	Enabled      bool     `json:"enabled"`
	Auth         AuthType `json:"auth"`
	Primary      []byte   `json:"primary,omitempty"`
	Secondary    []byte   `json:"secondary,omitempty"`
	Thumbprints  []string `json:"thumbprints,omitempty"`
	Edge         bool     `json:"edge,omitempty"`
	DeviceScope  string   `json:"deviceScope,omitempty"`
	ParentScopes []string `json:"parentScopes,omitempty"`
}

func toRecord(e Entry) record {
	return record{
		ID: e.ID.String(), GenerationID: e.GenerationID, Enabled: e.Enabled, Auth: e.Auth,
		Primary: e.Primary, Secondary: e.Secondary, Thumbprints: e.Thumbprints,
		Edge: e.Edge, DeviceScope: e.DeviceScope, ParentScopes: e.ParentScopes,
	}
}

func (r record) entry() (Entry, error) {
	id, err := iothub.ParseIdentity(r.ID)
	if err != nil {
		return Entry{}, fmt.Errorf("identity: %w", err)
	}
	return Entry{
		ID: id, GenerationID: r.GenerationID, Enabled: r.Enabled, Auth: r.Auth,
		Primary: sas.Key(r.Primary), Secondary: sas.Key(r.Secondary), Thumbprints: r.Thumbprints,
		Edge: r.Edge, DeviceScope: r.DeviceScope, ParentScopes: r.ParentScopes,
	}, nil
}

func (e Entry) same(o Entry) bool {
	return e.ID == o.ID && e.GenerationID == o.GenerationID && e.Enabled == o.Enabled && e.Auth == o.Auth &&
		bytes.Equal(e.Primary, o.Primary) && bytes.Equal(e.Secondary, o.Secondary) &&
		slices.Equal(e.Thumbprints, o.Thumbprints) && e.Edge == o.Edge &&
		e.DeviceScope == o.DeviceScope && slices.Equal(e.ParentScopes, o.ParentScopes)
}

package registry

import (
	"context"
	"maps"
	"slices"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// PutDevice creates or updates a device, as m says. Refusals are *Error.
func (r *Registry) PutDevice(ctx context.Context, c DeviceChange, m Match) (rest.Device, error) {
	r.write.Lock()
	d, changes, err := r.putDevice(ctx, c, m)
	r.write.Unlock()
	if err != nil {
		return rest.Device{}, err
	}
	r.changed(changes)
	return d.document(), nil
}

func (r *Registry) putDevice(ctx context.Context, c DeviceChange, m Match) (*device, []Change, error) {
	old, err := r.find(c.DeviceID)
	exists := err == nil
	switch {
	case exists && m.IsAbsent():
		return nil, nil, refuse(DeviceAlreadyExists, "device %s is registered already", printable(c.DeviceID))
	case !exists && !m.IsAbsent():
		return nil, nil, err
	case exists && !m.Allows(old.doc.Etag):
		return nil, nil, refuse(PreconditionFailed, "device %s has another etag", printable(c.DeviceID))
	}
	t := r.begin()
	var d *device
	if exists {
		d = old.clone()
		d.doc.Etag = NewEtag(old.doc.Etag)
	} else {
		d = r.newDevice(c.DeviceID)
		t.createTwin(iothub.DeviceIdentity(c.DeviceID))
	}
	if err := r.writable(d, c, exists); err != nil {
		return nil, nil, err
	}
	if err := r.capability(t, d, c); err != nil {
		return nil, nil, err
	}
	if err := r.placeInScope(d, c); err != nil {
		return nil, nil, err
	}
	t.putDevice(d)
	change := Change{ID: iothub.DeviceIdentity(c.DeviceID), Scopes: r.scopesAbove(d)}
	if exists {
		change.Scopes = append(change.Scopes, r.scopesAbove(old)...)
	}
	return d, []Change{change}, t.commit(ctx)
}

func (r *Registry) newDevice(id string) *device {
	return &device{modules: map[string]rest.Module{}, doc: rest.Device{
		DeviceID: id, GenerationID: r.generation(), Etag: NewEtag(""),
		ConnectionState: rest.Disconnected, Status: rest.Enabled,
		Capabilities: &rest.Capabilities{}, ParentScopes: []string{},
	}}
}

// writable takes over status and credentials.
func (r *Registry) writable(d *device, c DeviceChange, exists bool) error {
	if c.Status != nil && *c.Status != d.doc.Status {
		d.doc.Status = *c.Status
		if exists {
			d.doc.StatusUpdatedTime = rest.Time{Time: r.now().UTC()}
		}
	}
	if c.StatusReason != nil {
		d.doc.StatusReason = *c.StatusReason
	}
	auth, err := normalize(c.Authentication, d.doc.Authentication)
	if err != nil {
		return err
	}
	d.doc.Authentication = auth
	return nil
}

// capability makes an edge device of a device, or the other way round.
func (r *Registry) capability(t *transaction, d *device, c DeviceChange) error {
	if c.Edge == nil || *c.Edge == d.doc.IsEdge() {
		return nil
	}
	d.doc.Capabilities = &rest.Capabilities{IoTEdge: *c.Edge}
	if *c.Edge {
		d.doc.DeviceScope = ScopePrefix + d.doc.DeviceID + "-" + d.doc.GenerationID
		for _, name := range []string{iothub.AgentModule, iothub.HubModule} {
			m := r.newModule(iothub.ModuleIdentity(d.doc.DeviceID, name))
			m.ManagedBy = "iotEdge"
			m.Authentication = &rest.Authentication{Type: rest.AuthNone}
			t.putModule(d, m)
			t.createTwin(iothub.ModuleIdentity(d.doc.DeviceID, name))
		}
		return nil
	}
	if n := len(r.childrenOf(d.doc.DeviceScope)); n > 0 {
		return refuse(InvalidOperation, "device %s has %d children and must stay an edge device", printable(d.doc.DeviceID), n)
	}
	d.doc.DeviceScope, d.doc.ParentScopes = "", []string{}
	for _, name := range []string{iothub.AgentModule, iothub.HubModule} {
		t.deleteModule(d, name)
	}
	return nil
}

// DeleteDevice removes a device with its modules and twins; its children lose
// their parent.
func (r *Registry) DeleteDevice(ctx context.Context, id string, m Match) error {
	r.write.Lock()
	changes, err := r.deleteDevice(ctx, id, m)
	r.write.Unlock()
	if err != nil {
		return err
	}
	r.changed(changes)
	return nil
}

func (r *Registry) deleteDevice(ctx context.Context, id string, m Match) ([]Change, error) {
	old, err := r.find(id)
	if err != nil {
		return nil, err
	}
	if !m.Allows(old.doc.Etag) {
		return nil, refuse(PreconditionFailed, "device %s has another etag", printable(id))
	}
	t := r.begin()
	changes := []Change{{ID: iothub.DeviceIdentity(id), Deleted: true, Scopes: r.scopesAbove(old)}}
	d := old.clone()
	for _, name := range slices.Sorted(maps.Keys(old.modules)) {
		t.deleteModule(d, name)
		changes = append(changes, Change{ID: iothub.ModuleIdentity(id, name), Deleted: true})
	}
	if old.doc.IsEdge() {
		for _, child := range r.childrenOf(old.doc.DeviceScope) {
			c := child.clone()
			c.doc.ParentScopes = []string{}
			c.doc.Etag = NewEtag(c.doc.Etag)
			if !c.doc.IsEdge() {
				c.doc.DeviceScope = ""
			}
			t.putDevice(c)
			changes = append(changes, Change{ID: iothub.DeviceIdentity(c.doc.DeviceID)})
		}
	}
	t.batch.Delete(r.devices.Key(id), 0)
	r.twins.Deleted(&t.batch, iothub.DeviceIdentity(id))
	t.publish[id], t.lives = nil, true
	return changes, t.commit(ctx)
}

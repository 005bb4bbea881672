package registry

import (
	"context"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// MaxModules is how many modules a device may have besides the system modules.
const MaxModules = 50

func isSystem(module string) bool { return module == iothub.AgentModule || module == iothub.HubModule }

func (r *Registry) newModule(id iothub.Identity) rest.Module {
	return rest.Module{
		DeviceID: id.Device, ModuleID: id.Module, GenerationID: r.generation(), Etag: NewEtag(""),
		ConnectionState: rest.Disconnected,
	}
}

// PutModule creates or updates a module, as m says. Refusals are *Error.
func (r *Registry) PutModule(ctx context.Context, c ModuleChange, m Match) (rest.Module, error) {
	r.write.Lock()
	doc, changes, err := r.putModule(ctx, c, m)
	r.write.Unlock()
	if err != nil {
		return rest.Module{}, err
	}
	r.changed(changes)
	doc.Authentication = cloneAuth(doc.Authentication)
	return doc, nil
}

func (r *Registry) putModule(ctx context.Context, c ModuleChange, m Match) (rest.Module, []Change, error) {
	old, err := r.find(c.ID.Device)
	if err != nil {
		return rest.Module{}, nil, err
	}
	doc, exists := old.modules[c.ID.Module]
	switch {
	case exists && m.IsAbsent():
		return doc, nil, refuse(ModuleAlreadyExists, "module %s is registered already on device %s", printable(c.ID.Module), printable(c.ID.Device))
	case !exists && !m.IsAbsent():
		return doc, nil, refuse(ModuleNotFound, "module %s is not registered on device %s", printable(c.ID.Module), printable(c.ID.Device))
	case exists && !m.Allows(doc.Etag):
		return doc, nil, refuse(PreconditionFailed, "module %s has another etag", printable(c.ID.Module))
	case !exists && isSystem(c.ID.Module):
		return doc, nil, refuse(InvalidOperation, "module %s is made by the hub only", c.ID.Module)
	case !exists && countModules(old) >= MaxModules:
		return doc, nil, refuse(TooManyModules, "device %s has %d modules", printable(c.ID.Device), MaxModules)
	}
	t := r.begin()
	if exists {
		doc.Etag = NewEtag(doc.Etag)
	} else {
		doc = r.newModule(c.ID)
		t.createTwin(c.ID)
	}
	if c.ManagedBy != nil {
		doc.ManagedBy = *c.ManagedBy
	}
	if doc.Authentication, err = normalize(c.Authentication, doc.Authentication); err != nil {
		return doc, nil, err
	}
	d := old.clone()
	t.putModule(d, doc)
	return doc, []Change{{ID: c.ID, Scopes: r.scopesAbove(d)}}, t.commit(ctx)
}

func countModules(d *device) int {
	n := 0
	for name := range d.modules {
		if !isSystem(name) {
			n++
		}
	}
	return n
}

// DeleteModule removes a module and its twin; system modules cannot be removed.
func (r *Registry) DeleteModule(ctx context.Context, id iothub.Identity, m Match) error {
	r.write.Lock()
	changes, err := r.removeModule(ctx, id, m)
	r.write.Unlock()
	if err != nil {
		return err
	}
	r.changed(changes)
	return nil
}

func (r *Registry) removeModule(ctx context.Context, id iothub.Identity, m Match) ([]Change, error) {
	old, err := r.find(id.Device)
	if err != nil {
		return nil, err
	}
	doc, exists := old.modules[id.Module]
	switch {
	case !exists:
		return nil, refuse(ModuleNotFound, "module %s is not registered on device %s", printable(id.Module), printable(id.Device))
	case isSystem(id.Module) && old.doc.IsEdge():
		return nil, refuse(SystemModuleReserved, "module %s belongs to the hub", id.Module)
	case !m.Allows(doc.Etag):
		return nil, refuse(PreconditionFailed, "module %s has another etag", printable(id.Module))
	}
	t := r.begin()
	d := old.clone()
	t.deleteModule(d, id.Module)
	return []Change{{ID: id, Deleted: true, Scopes: r.scopesAbove(d)}}, t.commit(ctx)
}

// EnsureModules makes identities without credentials for those names that a device
// does not have, all or none.
func (r *Registry) EnsureModules(ctx context.Context, device string, names []string) error {
	r.write.Lock()
	changes, err := r.ensureModules(ctx, device, names)
	r.write.Unlock()
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		r.changed(changes)
	}
	return nil
}

func (r *Registry) ensureModules(ctx context.Context, device string, names []string) ([]Change, error) {
	old, err := r.find(device)
	if err != nil {
		return nil, err
	}
	t := r.begin()
	d := old.clone()
	var changes []Change
	for _, name := range names {
		if _, ok := d.modules[name]; ok {
			continue
		}
		id := iothub.ModuleIdentity(device, name)
		m := r.newModule(id)
		m.ManagedBy = "IotEdge"
		m.Authentication = &rest.Authentication{Type: rest.AuthNone}
		t.putModule(d, m)
		t.createTwin(id)
		changes = append(changes, Change{ID: id, Scopes: r.scopesAbove(d)})
	}
	if len(changes) == 0 {
		return nil, nil
	}
	if countModules(d) > MaxModules {
		return nil, refuse(TooManyModules, "device %s would have more than %d modules", printable(device), MaxModules)
	}
	return changes, t.commit(ctx)
}

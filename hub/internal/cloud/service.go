package cloud

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// FillDevice adds the connection's part to a device document.
func (h *Hub) FillDevice(d *rest.Device) {
	p := h.presence.get(iothub.DeviceIdentity(d.DeviceID))
	d.ConnectionState = p.state()
	d.ConnectionStateUpdatedTime, d.LastActivityTime = rest.Time{Time: p.Changed}, rest.Time{Time: p.Activity}
	d.CloudToDeviceMessageCount = h.messages.Depth(iothub.DeviceIdentity(d.DeviceID))
}

// FillModule adds the connection's part to a module document.
func (h *Hub) FillModule(m *rest.Module) {
	p := h.presence.get(iothub.ModuleIdentity(m.DeviceID, m.ModuleID))
	m.ConnectionState = p.state()
	m.ConnectionStateUpdatedTime, m.LastActivityTime = rest.Time{Time: p.Changed}, rest.Time{Time: p.Activity}
	m.CloudToDeviceMessageCount = h.messages.Depth(iothub.ModuleIdentity(m.DeviceID, m.ModuleID))
}

// ConnectedDevices counts the devices that are connected.
func (h *Hub) ConnectedDevices() int { return h.presence.connectedDevices() }

// Twin returns the whole twin. Errors: *registry.Error if there is no identity.
func (h *Hub) Twin(id iothub.Identity) (rest.Twin, error) {
	t, err := h.twins.Get(id)
	if err != nil {
		return rest.Twin{}, h.twinError(id, err)
	}
	return h.document(id, t)
}

// twinError names what is missing as the registry does.
func (h *Hub) twinError(id iothub.Identity, err error) error {
	if _, missing := h.generation(id); missing != nil {
		return missing
	}
	return err
}

// document joins twin, identity and connection.
func (h *Hub) document(id iothub.Identity, t *twin.Twin) (rest.Twin, error) {
	d, err := h.registry.Device(id.Device)
	if err != nil {
		return rest.Twin{}, err
	}
	auth, etag := d.Authentication, d.Etag
	doc := rest.Twin{DeviceID: id.Device, ModuleID: id.Module, Status: d.Status, StatusReason: d.StatusReason,
		StatusUpdateTime: d.StatusUpdatedTime}
	if id.IsModule() {
		m, err := h.registry.Module(id)
		if err != nil {
			return rest.Twin{}, err
		}
		auth, etag = m.Authentication, m.Etag
	} else {
		doc.Capabilities, doc.DeviceScope, doc.ParentScopes = d.Capabilities, d.DeviceScope, d.ParentScopes
	}
	if id.Module == iothub.AgentModule {
		doc.Configurations = h.deployments.status(id.Device)
	}
	p := h.presence.get(id)
	doc.DeviceEtag, doc.AuthenticationType, doc.X509Thumbprint = etag, auth.Type, auth.X509Thumbprint
	doc.CloudToDeviceMessageCount = h.messages.Depth(id)
	doc.ConnectionState, doc.LastActivityTime, doc.ModelID = p.state(), rest.Time{Time: p.Activity}, p.ModelID
	return doc, t.Fill(&doc)
}

// WriteTwin changes a twin for a service: it merges the change, or replaces by it.
// Errors: *registry.Error, *twin.InvalidError, twin.ErrTooLarge.
func (h *Hub) WriteTwin(ctx context.Context, id iothub.Identity, c twin.Change, replace bool, m registry.Match) (rest.Twin, error) {
	t, err := h.updateDesired(ctx, id, func(t *twin.Twin) (json.RawMessage, error) {
		if !m.Allows(t.Etag()) {
			return nil, &registry.Error{Code: registry.PreconditionFailed, Text: "the twin has another etag"}
		}
		if replace {
			return t.Replace(c, h.o.Now())
		}
		return t.Patch(c, h.o.Now())
	})
	if err != nil {
		return rest.Twin{}, err
	}
	h.deployments.changed()
	return h.document(id, t)
}

// updateDesired writes a twin and tells its owner, in the order of the versions,
// what change returned.
func (h *Hub) updateDesired(ctx context.Context, id iothub.Identity, change func(*twin.Twin) (json.RawMessage, error)) (*twin.Twin, error) {
	var told json.RawMessage
	t, err := h.twins.Update(ctx, id, func(t *twin.Twin) error {
		var err error
		told, err = change(t)
		return err
	}, func(t *twin.Twin) {
		if s := h.session(id); s != nil && told != nil {
			s.desiredChanged(told, t.Desired.Version)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("write twin: %w", h.twinError(id, err))
	}
	return t, nil
}

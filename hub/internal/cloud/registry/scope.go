package registry

import (
	"maps"
	"slices"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// ScopePrefix begins every scope; device id, "-" and generation id follow.
const ScopePrefix = "ms-azure-iot-edge://"

// Limits of parent-child relations.
const (
	maxEdgeLevels = 5
	maxChildren   = 100 // unless SetMaxChildren says otherwise
)

// SetMaxChildren changes how many children an edge device may have; 0 means 100, as in
// IoT Hub. Call it before the registry is used.
func (r *Registry) SetMaxChildren(n int) {
	if n > 0 {
		r.maxChildren = n
	}
}

// owner returns the edge device that a scope belongs to.
func (r *Registry) owner(scope string) (*device, bool) {
	name, ok := strings.CutPrefix(scope, ScopePrefix)
	i := strings.LastIndexByte(name, '-')
	if !ok || i < 0 {
		return nil, false
	}
	d, err := r.find(name[:i])
	if err != nil || !d.doc.IsEdge() || d.doc.DeviceScope != scope {
		return nil, false
	}
	return d, true
}

// childrenOf returns the direct children of a scope by id.
func (r *Registry) childrenOf(scope string) []*device {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var list []*device
	for _, id := range slices.Sorted(maps.Keys(r.children[scope])) {
		list = append(list, r.byID[id])
	}
	return list
}

// above returns the edge devices over d, nearest first. Loops cannot be stored,
// but the walk is bounded all the same.
func (r *Registry) above(d *device) []*device {
	var list []*device
	for range 2 * maxEdgeLevels {
		p, ok := r.owner(d.parent())
		if !ok {
			break
		}
		list = append(list, p)
		d = p
	}
	return list
}

// scopesAbove names the edge devices that should hear of a change of d or of its
// modules: d itself if it is one, and those over it.
func (r *Registry) scopesAbove(d *device) []string {
	var ids []string
	if d.doc.IsEdge() {
		ids = append(ids, d.doc.DeviceID)
	}
	for _, p := range r.above(d) {
		ids = append(ids, p.doc.DeviceID)
	}
	return ids
}

// placeInScope gives d the parent that the request asks for.
func (r *Registry) placeInScope(d *device, c DeviceChange) error {
	scope := d.parent()
	switch {
	case !d.doc.IsEdge() && c.DeviceScope != nil:
		scope = *c.DeviceScope
	case c.ParentScopes != nil && len(*c.ParentScopes) > 1:
		return refuse(InvalidDeviceScope, "a device has one parent at most")
	case c.ParentScopes != nil && len(*c.ParentScopes) == 0:
		scope = ""
	case c.ParentScopes != nil:
		scope = (*c.ParentScopes)[0]
	}
	if scope != d.parent() && scope != "" {
		if err := r.checkParent(d, scope); err != nil {
			return err
		}
	}
	d.doc.ParentScopes = []string{}
	if scope != "" {
		d.doc.ParentScopes = []string{scope}
	}
	if !d.doc.IsEdge() {
		d.doc.DeviceScope = scope
	}
	return nil
}

func (r *Registry) checkParent(d *device, scope string) error {
	p, ok := r.owner(scope)
	if !ok {
		return refuse(InvalidDeviceScope, "no edge device has this scope")
	}
	over := append([]*device{p}, r.above(p)...)
	for _, a := range over {
		if a.doc.DeviceID == d.doc.DeviceID {
			return refuse(InvalidDeviceScope, "a device cannot be above itself")
		}
	}
	if d.doc.IsEdge() && len(over)+r.height(d, maxEdgeLevels) > maxEdgeLevels {
		return refuse(InvalidDeviceScope, "more than %d levels of edge devices", maxEdgeLevels)
	}
	if len(r.childrenOf(scope)) >= r.maxChildren {
		return refuse(InvalidDeviceScope, "the parent has %d children", r.maxChildren)
	}
	return nil
}

// height counts the levels of edge devices from d down.
func (r *Registry) height(d *device, limit int) int {
	deepest := 0
	if limit > 0 {
		for _, c := range r.childrenOf(d.doc.DeviceScope) {
			if c.doc.IsEdge() {
				deepest = max(deepest, r.height(c, limit-1))
			}
		}
	}
	return deepest + 1
}

// Chain returns who stands over an identity, as the registry knows it: the
// identity itself, its device if it is a module, and the edge devices over that,
// nearest first. It refuses when one of them does not exist.
func (r *Registry) Chain(id iothub.Identity) ([]string, error) {
	d, err := r.find(id.Device)
	if err != nil {
		return nil, err
	}
	chain := []string{id.String()}
	if id.IsModule() {
		if _, err := r.Module(id); err != nil {
			return nil, err
		}
		chain = append(chain, id.Device)
	}
	for _, p := range r.above(d) {
		chain = append(chain, p.doc.DeviceID)
	}
	return chain, nil
}

// ScopeMembers returns an edge device and its direct children by id, the device
// itself first.
func (r *Registry) ScopeMembers(edge string) ([]rest.Device, error) {
	d, err := r.find(edge)
	if err != nil {
		return nil, err
	}
	if !d.doc.IsEdge() {
		return nil, refuse(InvalidOperation, "device %s is not an edge device", printable(edge))
	}
	docs := []rest.Device{d.document()}
	for _, c := range r.childrenOf(d.doc.DeviceScope) {
		docs = append(docs, c.document())
	}
	return docs, nil
}

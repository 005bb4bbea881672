package scope

import (
	"cmp"
	"slices"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// maxLevels is how many edge devices may stand above each other, this hub's
// included. What is deeper has no chain (spec edgehub-core 4).
const maxLevels = 5

// Chain returns the ids from the target up to the edge device of this hub, as an
// auth chain ("target;...;edge"), or false if the target is not below it. Every
// member must be known and enabled.
func (c *Cache) Chain(target iothub.Identity, edge string) (string, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var chain []string
	if target.IsModule() {
		if e, ok := c.entries[target]; !ok || !e.Enabled {
			return "", false
		}
		chain = append(chain, target.String())
	}
	levels := 0
	for device := target.Parent(); ; {
		e, ok := c.entries[device]
		if !ok || !e.Enabled {
			return "", false
		}
		if e.Edge {
			levels++
		}
		if levels > maxLevels || len(chain) > maxLevels+2 {
			return "", false
		}
		chain = append(chain, device.Device)
		if device.Device == edge {
			return strings.Join(chain, ";"), true
		}
		if device, ok = c.parentLocked(e); !ok {
			return "", false
		}
	}
}

// parentLocked finds the edge device that a device is a child of.
func (c *Cache) parentLocked(e Entry) (iothub.Identity, bool) {
	scope := e.parent()
	if scope == "" {
		return iothub.Identity{}, false
	}
	for id, p := range c.entries {
		if p.Edge && p.DeviceScope == scope && id != e.ID {
			return id, true
		}
	}
	return iothub.Identity{}, false
}

// parent is the scope that a device stands in: that of its parent.
func (e Entry) parent() string {
	if !e.Edge && e.DeviceScope != "" {
		return e.DeviceScope
	}
	if len(e.ParentScopes) > 0 {
		return e.ParentScopes[0]
	}
	return ""
}

// ChildOf tells whether a device stands directly below an edge device, enabled or
// not, or is it.
func (c *Cache) ChildOf(device iothub.Identity, edge string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.entries[device]
	if !ok {
		return false
	}
	parent, ok := c.parentLocked(e)
	return device.Device == edge || ok && parent.Device == edge
}

// Members returns an edge device, those that are directly below it, and their
// modules, but not those of edge devices below it: these are asked for by
// themselves. They come in the order of their ids, the device first.
func (c *Cache) Members(edge string) []Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	top, ok := c.entries[iothub.DeviceIdentity(edge)]
	if !ok || !top.Edge {
		return nil
	}
	list := []Entry{top}
	for id, e := range c.entries {
		device, ok := c.entries[id.Parent()]
		switch {
		case !ok || id == top.ID:
		case device.ID == top.ID: // a module
			list = append(list, e)
		case device.parent() != top.DeviceScope || top.DeviceScope == "":
		case !id.IsModule() || !device.Edge:
			list = append(list, e)
		}
	}
	slices.SortFunc(list[1:], func(a, b Entry) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return list
}

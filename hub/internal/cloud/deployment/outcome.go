package deployment

import (
	"maps"
	"slices"
)

// How far a configuration got on a device.
const (
	Targeted = "Targeted" // it is for the device, and another one or nothing is in force there
	Applied  = "Applied"
)

// Outcome is what all configurations make of one edge device.
type Outcome struct {
	Status map[string]string // of those whose condition holds, by id
	// Manifest is to be applied, unless there is no base that says what the agent is
	// to run as a whole: then Applies is false.
	Manifest Manifest
	Applies  bool
}

// For returns the outcome for the edge device with this twin. The base that counts
// most is in force, and over it the layers that count more.
func (l *List) For(device map[string]any) Outcome {
	l.mu.RLock()
	all := slices.Collect(maps.Values(l.all))
	l.mu.RUnlock()
	all = slices.DeleteFunc(all, func(c *configuration) bool { return !c.condition.Holds(device) })
	rank(all)
	o := Outcome{Status: map[string]string{}}
	base := -1
	for i, c := range all {
		o.Status[c.doc.ID] = Targeted
		if c.base() {
			base = i
		}
	}
	if base < 0 {
		return o
	}
	inForce := all[base:]
	o.Applies, o.Manifest = true, overlay(inForce)
	for i, c := range inForce {
		if i == 0 || c.survives(inForce[i+1:]) {
			o.Status[c.doc.ID] = Applied
		}
	}
	return o
}

// overlay puts manifests on each other, in their order. The result says all of each
// module that is named.
func overlay(all []*configuration) Manifest {
	out := Manifest{modules: map[string]moduleContent{}}
	for _, c := range all {
		for name, content := range c.manifest.modules {
			values := out.modules[name].replace
			if values == nil {
				values = map[string]any{}
			}
			out.modules[name] = moduleContent{replace: content.on(values)}
		}
	}
	return out
}

// survives tells whether something that c says is said by none of those above.
func (c *configuration) survives(above []*configuration) bool {
	for name, content := range c.manifest.modules {
		if content.replace != nil && !slices.ContainsFunc(above, func(a *configuration) bool { return a.manifest.modules[name].replace != nil }) {
			return true
		}
		for _, p := range content.set {
			if !slices.ContainsFunc(above, func(a *configuration) bool { return a.manifest.modules[name].covers(p.path) }) {
				return true
			}
		}
	}
	return false
}

// covers tells whether the content says all of what lies at a path.
func (c moduleContent) covers(path []string) bool {
	return c.replace != nil || slices.ContainsFunc(c.set, func(p pathValue) bool {
		return len(p.path) <= len(path) && slices.Equal(p.path, path[:len(p.path)])
	})
}

package deployment

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Manifest is what a deployment puts on one device.
type Manifest struct {
	modules map[string]moduleContent
}

// moduleContent is how the desired properties of one module change.
type moduleContent struct {
	replace map[string]any // nil: keep what is there
	set     []pathValue    // in order of their paths
}

type pathValue struct {
	path  []string
	value any
}

const desiredKey = "properties.desired"

// ParseManifest reads the body of applyConfigurationContent, also when it is
// wrapped in {"content":...}. Errors are *registry.Error.
func ParseManifest(body []byte) (Manifest, error) {
	var in struct {
		Content *rest.ConfigurationContent `json:"content"`
		rest.ConfigurationContent
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return Manifest{}, badContent("the body is not a manifest")
	}
	content := in.ConfigurationContent
	if content.ModulesContent == nil && in.Content != nil {
		content = *in.Content
	}
	if len(content.ModulesContent) == 0 {
		return Manifest{}, badContent("modulesContent is missing")
	}
	m := Manifest{modules: map[string]moduleContent{}}
	for _, name := range slices.Sorted(maps.Keys(content.ModulesContent)) {
		if iothub.CheckID(name) != nil {
			return Manifest{}, badContent("modulesContent holds a module name that is not valid")
		}
		c, err := parseModule(name, content.ModulesContent[name])
		if err != nil {
			return Manifest{}, err
		}
		m.modules[name] = c
	}
	return m, nil
}

func badContent(format string, args ...any) error {
	return &registry.Error{Code: InvalidContent, Text: fmt.Sprintf(format, args...)}
}

func parseModule(name string, in map[string]json.RawMessage) (moduleContent, error) {
	var c moduleContent
	for _, key := range slices.Sorted(maps.Keys(in)) {
		path, isPath := strings.CutPrefix(key, desiredKey+".")
		switch {
		case key == desiredKey:
			values, err := twin.ParseDesired(in[key])
			if err != nil {
				return c, badContent("modulesContent.%s.%v", name, err)
			}
			c.replace = values
		case isPath && path != "" && !slices.Contains(strings.Split(path, "."), ""):
			value, err := twin.ParseValue(in[key])
			if err != nil {
				return c, badContent("modulesContent.%s: a value below %s is not valid JSON", name, desiredKey)
			}
			c.set = append(c.set, pathValue{path: strings.Split(path, "."), value: value})
		default:
			return c, badContent("modulesContent.%s holds something else than %s", name, desiredKey)
		}
	}
	if name == iothub.AgentModule && c.replace != nil {
		for _, k := range []string{"schemaVersion", "runtime", "systemModules"} {
			if _, ok := c.replace[k]; !ok {
				return c, badContent("modulesContent.%s.%s.%s is missing", name, desiredKey, k)
			}
		}
	}
	return c, nil
}

// Modules returns the names of the modules of the manifest, in their order.
func (m Manifest) Modules() []string { return slices.Sorted(maps.Keys(m.modules)) }

// Desired returns the desired properties that the manifest makes of a module's current
// ones, which stay as they are.
func (m Manifest) Desired(module string, current map[string]any) map[string]any {
	return m.modules[module].on(twin.Copy(current))
}

// on returns the desired properties that the content makes of current ones, which
// it may change.
func (c moduleContent) on(current map[string]any) map[string]any {
	// A manifest may be used on more than one twin: nothing is shared.
	values := current
	if c.replace != nil {
		values = twin.Copy(c.replace)
	}
	for _, p := range c.set {
		p.put(values)
	}
	return values
}

// put sets the value at its path, over what is on the way there and no object; null takes
// away what lies there.
func (p pathValue) put(values map[string]any) {
	last := len(p.path) - 1
	for _, k := range p.path[:last] {
		next, ok := values[k].(map[string]any)
		if !ok {
			if p.value == nil {
				return
			}
			next = map[string]any{}
			values[k] = next
		}
		values = next
	}
	if p.value == nil {
		delete(values, p.path[last])
		return
	}
	values[p.path[last]] = twin.CopyValue(p.value)
}

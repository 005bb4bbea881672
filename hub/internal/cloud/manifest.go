package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/registry"
	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Codes of refused manifests.
const (
	InvalidContent registry.Code = "InvalidConfigurationContent"
	ApplyRunning   registry.Code = "ApplyConfigurationAlreadyInProgressOnDevice"
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

// on returns the desired properties that the content makes of current ones, which
// it may change.
func (c moduleContent) on(current map[string]any) map[string]any {
	values := current
	if c.replace != nil {
		// A manifest may be used on more than one twin: nothing is shared.
		values = twin.Copy(c.replace)
	}
	for _, p := range c.set {
		at := values
		for _, k := range p.path[:len(p.path)-1] {
			next, ok := at[k].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[k] = next
			}
			at = next
		}
		last := p.path[len(p.path)-1]
		if p.value == nil {
			delete(at, last)
		} else {
			at[last] = twin.CopyValue(p.value)
		}
	}
	return values
}

// Apply puts a manifest on an edge device: it makes the module identities that are
// missing and replaces the desired properties of each module named, unless they
// are equal already. The agent's come last. Errors: *registry.Error,
// *twin.InvalidError, twin.ErrTooLarge; these write no twin.
func (h *Hub) Apply(ctx context.Context, device string, m Manifest) error {
	d, err := h.registry.Device(device)
	if err != nil {
		return err
	}
	if !d.IsEdge() {
		return &registry.Error{Code: registry.InvalidOperation, Text: "the device is not an edge device"}
	}
	if _, running := h.applying.LoadOrStore(device, struct{}{}); running {
		return &registry.Error{Code: ApplyRunning, Text: "another manifest is being applied to the device"}
	}
	defer h.applying.Delete(device)
	names := slices.Sorted(maps.Keys(m.modules))
	if err := h.rehearse(device, m, names); err != nil {
		return err
	}
	if err := h.registry.EnsureModules(ctx, device, names); err != nil {
		return err
	}
	slices.SortStableFunc(names, func(a, b string) int { return agentLast(a) - agentLast(b) })
	for _, name := range names {
		content := m.modules[name]
		_, err := h.updateDesired(ctx, iothub.ModuleIdentity(device, name), func(t *twin.Twin) (json.RawMessage, error) {
			return content.apply(t, h)
		})
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

func (c moduleContent) apply(t *twin.Twin, h *Hub) (json.RawMessage, error) {
	values := c.on(twin.Copy(t.Desired.Values))
	if t.SameDesired(values) {
		return nil, twin.ErrUnchanged
	}
	return t.ReplaceDesired(values, h.o.Now())
}

func agentLast(name string) int {
	if name == iothub.AgentModule {
		return 1
	}
	return 0
}

// rehearse applies the manifest to copies, so that one bad module leaves all others
// as they were.
func (h *Hub) rehearse(device string, m Manifest, names []string) error {
	for _, name := range names {
		t, err := h.twins.Get(iothub.ModuleIdentity(device, name))
		if err != nil {
			t = twin.New()
		}
		if _, err := m.modules[name].apply(t, h); err != nil && !errors.Is(err, twin.ErrUnchanged) {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

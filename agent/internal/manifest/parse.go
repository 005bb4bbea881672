package manifest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Options is what reading a manifest needs to know about the device.
type Options struct {
	// Parent is the host name that $upstream stands for: the agent's own
	// IOTEDGE_GATEWAYHOSTNAME, empty when the device has no parent.
	Parent string
}

// Parse reads a desired section, "$version" included. Errors are *Error. The order
// of checks decides which code is given: empty document, schema version, the rest.
func Parse(desired json.RawMessage, opts Options) (*Deployment, error) {
	doc, err := newObject("", desired)
	if err != nil {
		return nil, err
	}
	if doc.empty() {
		return nil, &Error{Code: CodeEmpty, Reason: emptyText}
	}
	if err := checkSchemaVersion(doc); err != nil {
		return nil, err
	}
	d := &Deployment{Modules: map[string]Module{}}
	if raw, ok := doc.lookup("$version"); ok {
		if d.Version, err = strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err != nil {
			return nil, invalid("$version", "must be an integer")
		}
	}
	if d.Runtime, err = parseRuntime(doc, opts); err != nil {
		return nil, err
	}
	if err := parseSystemModules(doc, opts, d.Modules); err != nil {
		return nil, err
	}
	if err := parseModules(doc, opts, d.Modules); err != nil {
		return nil, err
	}
	if d.Safe, err = takeSafe(d.Modules); err != nil {
		return nil, err
	}
	integrity, err := doc.optional("integrity")
	if err != nil {
		return nil, err
	}
	d.Signed = len(integrity.members) > 0
	return d, nil
}

// empty tells whether only transport members are there.
func (o object) empty() bool {
	for _, m := range o.members {
		if !strings.HasPrefix(m.key, "$") {
			return false
		}
	}
	return true
}

const newestSchema = "1.1.0"

func checkSchemaVersion(doc object) error {
	bad := func(got string) error {
		return &Error{
			Code: CodeSchemaVersion, Path: "schemaVersion",
			Reason: fmt.Sprintf("The deployment schema version %q is not supported: expected 1.0 to %s.", got, newestSchema),
		}
	}
	raw, ok := doc.get("schemaVersion")
	if !ok {
		return bad("")
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return bad(string(raw))
	}
	v, err := parseVersion(s)
	if err != nil {
		return bad(s)
	}
	newest, _ := parseVersion(newestSchema)
	if v[0] != newest[0] || compareVersions(v, newest) > 0 {
		return bad(s)
	}
	return nil
}

// parseVersion reads major.minor[.build[.revision]].
func parseVersion(s string) ([4]int, error) {
	var v [4]int
	parts := strings.Split(strings.TrimSpace(s), ".")
	if len(parts) < 2 || len(parts) > 4 {
		return v, fmt.Errorf("version %q has %d parts", s, len(parts))
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil {
			return v, fmt.Errorf("version %q: part %d is no number", s, i+1)
		}
		v[i] = int(n)
	}
	return v, nil
}

func compareVersions(a, b [4]int) int {
	for i := range a {
		if a[i] != b[i] {
			return a[i] - b[i]
		}
	}
	return 0
}

func parseRuntime(doc object, opts Options) (Runtime, error) {
	o, err := doc.child("runtime")
	if err != nil {
		return Runtime{}, err
	}
	r := Runtime{}
	if r.Type, err = dockerType(o); err != nil {
		return Runtime{}, err
	}
	settings, err := o.optional("settings")
	if err != nil {
		return Runtime{}, err
	}
	if r.MinDockerVersion, err = settings.text("minDockerVersion", ""); err != nil {
		return Runtime{}, err
	}
	if r.LoggingOptions, err = settings.text("loggingOptions", ""); err != nil {
		return Runtime{}, err
	}
	r.Registries, err = parseRegistries(settings, opts)
	return r, err
}

func dockerType(o object) (string, error) {
	t, err := o.text("type", "")
	if err != nil {
		return "", err
	}
	if t == "" {
		return "", invalid(o.at("type"), "is required")
	}
	if !strings.EqualFold(t, "docker") {
		return "", invalid(o.at("type"), "must be docker, not %q", t)
	}
	return "docker", nil
}

func parseSystemModules(doc object, opts Options, into map[string]Module) error {
	o, err := doc.child("systemModules")
	if err != nil {
		return err
	}
	for _, name := range []string{AgentName, HubName} {
		raw, ok := o.get(name)
		if !ok {
			continue
		}
		m, err := parseModule(o.at(name), name, raw, opts)
		if err != nil {
			return err
		}
		into[name] = m
	}
	return nil
}

func parseModules(doc object, opts Options, into map[string]Module) error {
	o, err := doc.optional("modules")
	if err != nil {
		return err
	}
	seen := map[string]string{}
	for _, e := range o.members {
		if err := checkName(o.at(e.key), e.key); err != nil {
			return err
		}
		if isNull(e.value) {
			continue
		}
		// Names are host names on the module network, where case does not count.
		if other, dup := seen[strings.ToLower(e.key)]; dup && other != e.key {
			return invalid(o.at(e.key), "differs from module %q in letter case only", other)
		}
		seen[strings.ToLower(e.key)] = e.key
		m, err := parseModule(o.at(e.key), e.key, e.value, opts)
		if err != nil {
			return err
		}
		into[e.key] = m
	}
	return nil
}

package manifest

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
)

// containerName is what every container engine can host as a name.
var containerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

const maxNameLength = 128

func checkName(path, name string) error {
	bare := strings.TrimPrefix(name, "$")
	if strings.EqualFold(bare, AgentName) || strings.EqualFold(bare, HubName) {
		return invalid(path, "the name is reserved for a system module")
	}
	if len(name) > maxNameLength || !containerName.MatchString(name) {
		return invalid(path, "the name must be 1 to %d letters, digits, '_', '.' or '-' and begin with a letter or digit", maxNameLength)
	}
	return nil
}

func parseModule(path, name string, raw json.RawMessage, opts Options) (Module, error) {
	o, err := newObject(path, raw)
	if err != nil {
		return Module{}, err
	}
	m := Module{Name: name}
	if m.Type, err = dockerType(o); err != nil {
		return Module{}, err
	}
	if m.Status, err = parseStatus(o, name); err != nil {
		return Module{}, err
	}
	if m.Restart, err = parseRestart(o, name); err != nil {
		return Module{}, err
	}
	if m.Pull, err = parsePull(o); err != nil {
		return Module{}, err
	}
	if m.Order, err = parseOrder(o, name); err != nil {
		return Module{}, err
	}
	if name != AgentName && name != HubName {
		if m.Version, err = o.text("version", ""); err != nil {
			return Module{}, err
		}
	}
	if m.Env, err = parseEnv(o); err != nil {
		return Module{}, err
	}
	settings, err := o.child("settings")
	if err != nil {
		return Module{}, err
	}
	if m.Image, err = parseImage(settings, opts); err != nil {
		return Module{}, err
	}
	if m.Digest, err = settings.text("digest", ""); err != nil {
		return Module{}, err
	}
	m.CreateOptions, err = parseCreateOptions(settings)
	return m, err
}

func parseStatus(o object, name string) (Status, error) {
	if name == AgentName {
		return Running, nil
	}
	s, err := o.text("status", "")
	switch {
	case err != nil:
		return "", err
	case s == "":
		return "", invalid(o.at("status"), "is required")
	case strings.EqualFold(s, string(Running)):
		return Running, nil
	case strings.EqualFold(s, string(Stopped)):
		return Stopped, nil
	}
	return "", invalid(o.at("status"), "must be running or stopped, not %q", s)
}

func parseRestart(o object, name string) (RestartPolicy, error) {
	if name == AgentName {
		return RestartAlways, nil
	}
	def := RestartOnUnhealthy
	raw, present := o.lookup("restartPolicy")
	if name == HubName {
		def = RestartAlways
		if present && isNull(raw) {
			return 0, invalid(o.at("restartPolicy"), "must not be null")
		}
	}
	s, err := o.text("restartPolicy", def.String())
	if err != nil {
		return 0, err
	}
	p, err := ParseRestartPolicy(s)
	if err != nil {
		return 0, invalid(o.at("restartPolicy"), "must be never, on-failure, on-unhealthy or always, not %q", s)
	}
	return p, nil
}

func parsePull(o object) (PullPolicy, error) {
	s, err := o.text("imagePullPolicy", string(PullOnCreate))
	switch {
	case err != nil:
		return "", err
	case strings.EqualFold(s, string(PullOnCreate)):
		return PullOnCreate, nil
	case strings.EqualFold(s, string(PullNever)):
		return PullNever, nil
	}
	return "", invalid(o.at("imagePullPolicy"), "must be on-create or never, not %q", s)
}

func parseOrder(o object, name string) (uint32, error) {
	if name == AgentName {
		return 0, nil
	}
	raw, ok := o.lookup("startupOrder")
	if !ok {
		return DefaultOrder, nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 32)
	if err != nil {
		return 0, invalid(o.at("startupOrder"), "must be an integer from 0 to %d", uint32(DefaultOrder))
	}
	return uint32(n), nil
}

func parseEnv(o object) (map[string]string, error) {
	list, err := o.optional("env")
	if err != nil {
		return nil, err
	}
	env := make(map[string]string, len(list.members))
	for _, e := range list.members {
		path := list.at(e.key)
		if e.key == "" || strings.ContainsAny(e.key, "=\x00") {
			return nil, invalid(path, "is no name of an environment variable")
		}
		if isNull(e.value) {
			env[e.key] = ""
			continue
		}
		entry, err := newObject(path, e.value)
		if err != nil {
			return nil, err
		}
		v, err := entry.text("value", "")
		if err != nil {
			return nil, err
		}
		if strings.Contains(v, "\x00") {
			return nil, invalid(path, "contains a zero byte")
		}
		env[e.key] = v
	}
	return env, nil
}

// ParseEnv reads an env member, as Module.EnvJSON writes it. Empty text is {}.
func ParseEnv(text string) (map[string]string, error) {
	if strings.TrimSpace(text) == "" {
		text = "{}"
	}
	return parseEnv(object{members: []member{{key: "env", value: json.RawMessage(text)}}})
}

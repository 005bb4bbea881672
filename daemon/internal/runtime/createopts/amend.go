package createopts

import (
	"fmt"
	"slices"
	"strings"
)

// EnvVar is one entry of a module's "env".
type EnvVar struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// AddEnv adds the module's environment below the options' own: a key that the
// options set or remove keeps what the options say. It fails on a key that vars
// name twice or that cannot be one.
func (o *Options) AddEnv(vars []EnvVar) error {
	taken := make(map[string]bool, len(o.Env))
	for _, entry := range o.Env {
		key, _, _ := strings.Cut(entry, "=")
		taken[key] = true
	}
	seen := make(map[string]bool, len(vars))
	merged := make([]string, 0, len(vars)+len(o.Env))
	for i, v := range vars {
		if v.Key == "" || strings.ContainsAny(v.Key, "=\x00") {
			return fmt.Errorf("env[%d]: key %q", i, v.Key)
		}
		if strings.ContainsRune(v.Value, 0) {
			return fmt.Errorf("env[%d]: zero byte in the value of %s", i, v.Key)
		}
		if seen[v.Key] {
			return fmt.Errorf("env[%d]: key %s is there twice", i, v.Key)
		}
		seen[v.Key] = true
		if !taken[v.Key] {
			merged = append(merged, v.Key+"="+v.Value)
		}
	}
	o.Env = append(merged, o.Env...)
	return nil
}

// DropElevated takes away what allow_elevated_docker_permissions=false forbids:
// privileged mode and added capabilities; CHOWN and SETUID are dropped besides.
func (o *Options) DropElevated() {
	h := &o.HostConfig
	h.Privileged = false
	h.CapAdd = nil
	h.CapDrop = slices.Clone(h.CapDrop)
	for _, name := range []string{"CHOWN", "SETUID"} {
		if !slices.Contains(h.CapDrop, name) {
			h.CapDrop = append(h.CapDrop, name)
		}
	}
}

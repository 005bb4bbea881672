package iothub

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Limits of a twin section (spec edgehub-core 9.3, iothub-mqtt 10.4).
const (
	MaxTwinSize    = 32 << 10 // serialized JSON, in bytes
	maxTwinDepth   = 10       // objects within the section
	maxTwinName    = 1024     // bytes
	maxTwinString  = 4096     // bytes
	maxTwinInteger = 1<<52 - 1
	minTwinInteger = -1 << 52
)

// ValidationError tells which rule a twin patch breaks and where. Path is
// "a.b[2]", "" for the patch as a whole.
type ValidationError struct {
	Path   string
	Reason string
}

func (e *ValidationError) Error() string {
	if e.Path == "" {
		return "twin patch: " + e.Reason
	}
	return fmt.Sprintf("twin patch: %s: %s", e.Path, e.Reason)
}

// CheckPatch checks a patch of reported or desired properties against the limits
// of a twin. "$version" and "$metadata" at its top are not looked at, because
// MergePatch ignores them. The error is a *ValidationError. Whoever stores the
// merged section checks its size (MaxTwinSize) as well.
func CheckPatch(patch json.RawMessage) error {
	m, err := decodeObject(patch)
	if err != nil {
		return &ValidationError{Reason: err.Error()}
	}
	dropHubMembers(m)
	compact, err := encodeJSON(m)
	if err != nil {
		return &ValidationError{Reason: err.Error()}
	}
	if len(compact) > MaxTwinSize {
		return &ValidationError{Reason: fmt.Sprintf("%d bytes, at most %d", len(compact), MaxTwinSize)}
	}
	if err := checkObject("", m, 0); err != nil {
		return err
	}
	return nil
}

func checkObject(path string, m map[string]any, depth int) error {
	if depth > maxTwinDepth {
		return &ValidationError{Path: path, Reason: fmt.Sprintf("nested deeper than %d levels", maxTwinDepth)}
	}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if reason := checkName(name); reason != "" {
			return &ValidationError{Path: join(path, clip(name)), Reason: reason}
		}
		if err := checkValue(join(path, name), m[name], depth); err != nil {
			return err
		}
	}
	return nil
}

func checkValue(path string, v any, depth int) error {
	switch v := v.(type) {
	case map[string]any:
		return checkObject(path, v, depth+1)
	case []any:
		for i, element := range v {
			at := path + "[" + strconv.Itoa(i) + "]"
			if element == nil {
				return &ValidationError{Path: at, Reason: "null in an array"}
			}
			if err := checkValue(at, element, depth); err != nil {
				return err
			}
		}
	case string:
		if len(v) > maxTwinString {
			return &ValidationError{Path: path, Reason: fmt.Sprintf("string of %d bytes, at most %d", len(v), maxTwinString)}
		}
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return nil
		}
		n, err := v.Int64()
		if err != nil || n < minTwinInteger || n > maxTwinInteger {
			return &ValidationError{Path: path, Reason: "integer beyond 52 bits"}
		}
	}
	return nil
}

// checkName returns what is wrong with the name of a member, or "".
func checkName(name string) string {
	if len(name) > maxTwinName {
		return fmt.Sprintf("name of %d bytes, at most %d", len(name), maxTwinName)
	}
	for _, r := range name {
		if unicode.IsControl(r) || unicode.IsSpace(r) || strings.ContainsRune(".$#", r) {
			return fmt.Sprintf("name holds %q", r)
		}
	}
	return ""
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// clip keeps an overlong name out of errors.
func clip(name string) string {
	if len(name) > 64 {
		return strings.ToValidUTF8(name[:64], "") + "..."
	}
	return name
}

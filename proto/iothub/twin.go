package iothub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
)

// Members of a twin section that the hub writes, never a client.
const (
	versionMember  = "$version"
	metadataMember = "$metadata"
)

// ErrNotObject is wrapped by errors about a twin section or patch that is not one
// JSON object.
var ErrNotObject = errors.New("not a JSON object")

// TwinProperties is what a device or module sees of its twin: both sections as
// JSON objects, each with "$version" (and without "$metadata").
type TwinProperties struct {
	Desired  json.RawMessage `json:"desired"`
	Reported json.RawMessage `json:"reported"`
}

// MergePatch applies a patch to a twin section and returns the result, compact
// and with sorted names. Objects merge member by member; any other value replaces
// what was there; null removes a member, and is dropped from objects that are new.
// "$version" and "$metadata" at the top of the patch are ignored, those of doc
// stay. An empty doc counts as {}. Errors wrap ErrNotObject.
func MergePatch(doc, patch json.RawMessage) (json.RawMessage, error) {
	if len(doc) == 0 {
		doc = json.RawMessage("{}")
	}
	d, err := decodeObject(doc)
	if err != nil {
		return nil, fmt.Errorf("twin section: %w", err)
	}
	p, err := decodeObject(patch)
	if err != nil {
		return nil, fmt.Errorf("twin patch: %w", err)
	}
	dropHubMembers(p)
	merge(d, p)
	return encodeJSON(d)
}

// merge changes doc; values of patch become part of it.
func merge(doc, patch map[string]any) {
	for name, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(doc, name)
		case map[string]any:
			below, ok := doc[name].(map[string]any)
			if !ok {
				below = make(map[string]any, len(v))
				doc[name] = below
			}
			merge(below, v)
		default:
			doc[name] = v
		}
	}
}

// DiffPatch returns the patch that MergePatch needs to turn from into to: members
// that vanished are null, and it is {} when both are equal. "$version" and
// "$metadata" at the top of either are ignored, and a null member counts as
// absent, because no patch can set one. Numbers are compared as text. An empty
// section counts as {}. Errors wrap ErrNotObject.
func DiffPatch(from, to json.RawMessage) (json.RawMessage, error) {
	var sections [2]map[string]any
	for i, s := range [2]json.RawMessage{from, to} {
		if len(s) == 0 {
			s = json.RawMessage("{}")
		}
		var err error
		if sections[i], err = decodeObject(s); err != nil {
			return nil, fmt.Errorf("twin section: %w", err)
		}
		dropHubMembers(sections[i])
	}
	return encodeJSON(diff(sections[0], sections[1]))
}

func diff(from, to map[string]any) map[string]any {
	patch := map[string]any{}
	for name, old := range from {
		if to[name] == nil && old != nil {
			patch[name] = nil
		}
	}
	for name, v := range to {
		old, had := from[name]
		if v == nil {
			continue
		}
		oldObject, wasObject := old.(map[string]any)
		newObject, isObject := v.(map[string]any)
		switch {
		case isObject && wasObject:
			if below := diff(oldObject, newObject); len(below) > 0 {
				patch[name] = below
			}
		case isObject:
			patch[name] = withoutNulls(newObject)
		case !had || !reflect.DeepEqual(old, v):
			patch[name] = v
		}
	}
	return patch
}

func withoutNulls(m map[string]any) map[string]any {
	clean := make(map[string]any, len(m))
	merge(clean, m)
	return clean
}

// Version reads "$version" of a twin section or desired patch; false when there
// is none or the section cannot be read.
func Version(section json.RawMessage) (int64, bool) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(section, &members); err != nil {
		return 0, false
	}
	v, err := strconv.ParseInt(string(members[versionMember]), 10, 64)
	return v, err == nil
}

// WithVersion returns the section with "$version" set to v. An empty section
// counts as {}. Errors wrap ErrNotObject.
func WithVersion(section json.RawMessage, v int64) (json.RawMessage, error) {
	if len(section) == 0 {
		section = json.RawMessage("{}")
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(section, &members); err != nil || members == nil {
		return nil, fmt.Errorf("twin section: %w", notObject(err))
	}
	members[versionMember] = strconv.AppendInt(nil, v, 10)
	return encodeJSON(members)
}

func dropHubMembers(section map[string]any) {
	delete(section, versionMember)
	delete(section, metadataMember)
}

// decodeObject reads exactly one JSON object; numbers stay as they are written.
func decodeObject(raw json.RawMessage) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil || m == nil {
		return nil, notObject(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: more after its end", ErrNotObject)
	}
	return m, nil
}

// notObject keeps the place of a syntax error and nothing of the document.
func notObject(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%w: malformed at offset %d", ErrNotObject, syntax.Offset)
	}
	return ErrNotObject
}

// encodeJSON writes v compactly and leaves <, > and & as they are.
func encodeJSON(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode twin section: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

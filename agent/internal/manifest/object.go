package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
)

// object is a JSON object with its members in the document's order and its place
// in the document.
type object struct {
	path    string
	members []member
}

type member struct {
	key   string
	value json.RawMessage
}

var errNotObject = errors.New("not a JSON object")

func parseMembers(raw []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if tok != json.Delim('{') {
		return nil, errNotObject
	}
	var list []member
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var m member
		m.key, _ = tok.(string)
		if err := dec.Decode(&m.value); err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("text after the JSON object")
	}
	return list, nil
}

func newObject(path string, raw json.RawMessage) (object, error) {
	list, err := parseMembers(raw)
	if err != nil {
		return object{}, invalid(path, "must be an object")
	}
	return object{path: path, members: list}, nil
}

func (o object) at(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// lookup returns the last member with this name in any letter case; ok is false
// when there is none. An explicit null is returned as such.
func (o object) lookup(name string) (raw json.RawMessage, ok bool) {
	for _, m := range o.members {
		if strings.EqualFold(m.key, name) {
			raw, ok = m.value, true
		}
	}
	return raw, ok
}

// get is lookup that takes null for absent.
func (o object) get(name string) (json.RawMessage, bool) {
	raw, ok := o.lookup(name)
	if !ok || isNull(raw) {
		return nil, false
	}
	return raw, true
}

// child returns a member that is an object; absent and null are errors.
func (o object) child(name string) (object, error) {
	raw, ok := o.get(name)
	if !ok {
		return object{}, invalid(o.at(name), "is required")
	}
	return newObject(o.at(name), raw)
}

// optional returns a member that is an object, empty when absent or null.
func (o object) optional(name string) (object, error) {
	raw, ok := o.get(name)
	if !ok {
		return object{path: o.at(name)}, nil
	}
	return newObject(o.at(name), raw)
}

// text returns a member that is a string, def when absent or null. Numbers and
// booleans are taken as their text.
func (o object) text(name, def string) (string, error) {
	raw, ok := o.get(name)
	if !ok {
		return def, nil
	}
	return scalarText(o.at(name), raw)
}

func scalarText(path string, raw json.RawMessage) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return "", invalid(path, "must be a string")
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return string(bytes.TrimSpace(raw)), nil
	}
	return "", invalid(path, "must be a string")
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }

// marshal writes v without escaping HTML characters; v is always encodable.
func marshal(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("manifest: encode: " + err.Error())
	}
	return bytes.TrimSpace(b.Bytes())
}

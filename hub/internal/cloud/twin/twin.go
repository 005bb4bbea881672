package twin

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Twin is the part of a twin that is its own; the identity's part is added where
// the whole document is shown.
type Twin struct {
	Tags     map[string]any `json:"tags"`
	Desired  Section        `json:"desired"`
	Reported Section        `json:"reported"`
	// Version grows with every write.
	Version int64 `json:"version"`
	// Counter is what the etag is made of; reported writes leave it alone.
	Counter uint64 `json:"etag"`
}

// New returns the twin of a fresh identity.
func New() *Twin {
	return &Twin{Tags: map[string]any{}, Desired: newSection(), Reported: newSection(), Version: 2, Counter: 1}
}

// Etag returns the opaque etag.
func (t *Twin) Etag() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], t.Counter)
	return base64.StdEncoding.EncodeToString(b[:])
}

// Change is what a service writes to a twin. A nil section stays as it is; an empty
// one that is marked as cleared loses everything.
type Change struct {
	Tags, Desired           map[string]any
	ClearTags, ClearDesired bool
	hasProperties           bool
}

// ParseChange reads the body of a PATCH or PUT of a twin. Only tags and
// properties.desired are read; "$metadata" and "$version" in them are dropped.
// Errors are *InvalidError.
func ParseChange(body []byte) (Change, error) {
	doc, err := decodeObject(body)
	if err != nil {
		return Change{}, invalid("", "twin: %v", err)
	}
	var c Change
	if c.Tags, c.ClearTags, err = section("tags", doc); err != nil {
		return Change{}, err
	}
	if v, ok := doc["properties"]; ok && v != nil {
		properties, ok := v.(map[string]any)
		if !ok {
			return Change{}, invalid("properties", "not an object")
		}
		c.hasProperties = true
		if c.Desired, c.ClearDesired, err = section("desired", properties); err != nil {
			return Change{}, err
		}
	}
	return c, nil
}

func section(name string, from map[string]any) (values map[string]any, clear bool, err error) {
	v, ok := from[name]
	switch {
	case !ok:
		return nil, false, nil
	case v == nil:
		return map[string]any{}, true, nil
	}
	values, ok = v.(map[string]any)
	if !ok {
		return nil, false, invalid(name, "not an object")
	}
	return strip(values), false, nil
}

func strip(values map[string]any) map[string]any {
	delete(values, metadataKey)
	delete(values, versionKey)
	return values
}

// ParseDesired reads a whole section, as a manifest gives it. Errors are *InvalidError.
func ParseDesired(raw json.RawMessage) (map[string]any, error) {
	values, err := decodeObject(raw)
	if err != nil {
		return nil, invalid("properties.desired", "%v", err)
	}
	return strip(values), nil
}

// ParseValue reads one JSON value of any kind.
func ParseValue(raw json.RawMessage) (any, error) { return decodeValue(raw) }

// Copy returns a deep copy of a section's values.
func Copy(values map[string]any) map[string]any {
	out := make(map[string]any, len(values))
	for k, v := range values {
		out[k] = CopyValue(v)
	}
	return out
}

// CopyValue returns a deep copy of a JSON value.
func CopyValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return Copy(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = CopyValue(v[i])
		}
		return out
	}
	return v
}

// Patch merges a change. It returns the desired patch that a connected client is
// to be told, nil if desired was not touched. On error the twin must be dropped.
func (t *Twin) Patch(c Change, now time.Time) (json.RawMessage, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	switch {
	case c.ClearTags:
		t.Tags = map[string]any{}
	case c.Tags != nil:
		mergeNode(t.Tags, map[string]any{}, c.Tags, stamp{})
	}
	switch {
	case c.ClearDesired:
		return t.replaceDesired(nil, now)
	case c.Desired != nil:
		t.Desired.Version++
		t.Desired.merge(c.Desired, t.desiredStamp(now))
		return t.finish(c.Desired)
	}
	return t.finish(nil)
}

// Replace puts the change in the place of what is stored: tags always, desired
// properties if the change has them. The result is as with Patch.
func (t *Twin) Replace(c Change, now time.Time) (json.RawMessage, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	t.Tags = map[string]any{}
	mergeNode(t.Tags, map[string]any{}, c.Tags, stamp{})
	if c.Desired == nil && c.hasProperties {
		return t.finish(nil)
	}
	return t.replaceDesired(c.Desired, now)
}

// ReplaceDesired replaces only the desired properties. Tags stay.
func (t *Twin) ReplaceDesired(values map[string]any, now time.Time) (json.RawMessage, error) {
	if err := (Change{Desired: values}).check(); err != nil {
		return nil, err
	}
	return t.replaceDesired(values, now)
}

func (t *Twin) replaceDesired(values map[string]any, now time.Time) (json.RawMessage, error) {
	before := t.Desired.Values
	t.Desired.Version++
	t.Desired.replace(values, t.desiredStamp(now))
	return t.finish(told(before, t.Desired.Values))
}

// SameDesired tells whether replacing by values would change nothing.
func (t *Twin) SameDesired(values map[string]any) bool {
	s := newSection()
	s.replace(values, stamp{})
	return reflect.DeepEqual(t.Desired.Values, s.Values)
}

// told returns all of after, and null for each key of before that is gone, at every
// level: a client that merges it has exactly after.
func told(before, after map[string]any) map[string]any {
	out := make(map[string]any, len(after))
	for k, v := range after {
		out[k] = v
	}
	for k, old := range before {
		now, ok := after[k]
		if !ok {
			out[k] = nil
			continue
		}
		oldObject, wasObject := old.(map[string]any)
		nowObject, isObject := now.(map[string]any)
		if wasObject && isObject {
			out[k] = told(oldObject, nowObject)
		}
	}
	return out
}

func (t *Twin) desiredStamp(now time.Time) stamp {
	return stamp{at: rest.Format(now), version: t.Desired.Version}
}

func (c Change) check() error {
	if err := checkRules("tags", anyOrNil(c.Tags), 0); err != nil {
		return err
	}
	return checkRules("properties.desired", anyOrNil(c.Desired), 0)
}

func anyOrNil(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}

// finish counts the write, checks the limits and encodes what is told.
func (t *Twin) finish(news map[string]any) (json.RawMessage, error) {
	t.Version++
	t.Counter++
	if err := checkSection("tags", t.Tags, maxTags); err != nil {
		return nil, err
	}
	if err := checkSection("properties.desired", t.Desired.Values, maxSection); err != nil {
		return nil, err
	}
	if news == nil {
		return nil, nil
	}
	out := make(map[string]any, len(news)+1)
	for k, v := range news {
		out[k] = v
	}
	out[versionKey] = t.Desired.Version
	return json.Marshal(out)
}

// PatchReported merges a patch by the twin's owner. Errors are *InvalidError or
// wrap ErrTooLarge; the twin must then be dropped.
func (t *Twin) PatchReported(patch json.RawMessage, now time.Time) error {
	values, err := decodeObject(patch)
	if err != nil {
		return invalid("", "reported properties: %v", err)
	}
	values = strip(values)
	if err := checkRules("properties.reported", values, 0); err != nil {
		return err
	}
	t.Version++
	t.Reported.Version++
	t.Reported.merge(values, stamp{at: rest.Format(now)})
	return checkSection("properties.reported", t.Reported.Values, maxSection)
}

// Properties returns the twin as its owner sees it.
func (t *Twin) Properties() (iothub.TwinProperties, error) {
	desired, err := json.Marshal(t.Desired.forDevice())
	if err != nil {
		return iothub.TwinProperties{}, fmt.Errorf("encode desired properties: %w", err)
	}
	reported, err := json.Marshal(t.Reported.forDevice())
	if err != nil {
		return iothub.TwinProperties{}, fmt.Errorf("encode reported properties: %w", err)
	}
	return iothub.TwinProperties{Desired: desired, Reported: reported}, nil
}

// Fill writes the twin's part of the whole document.
func (t *Twin) Fill(doc *rest.Twin) error {
	var err error
	if doc.Tags, err = json.Marshal(t.Tags); err != nil {
		return fmt.Errorf("encode tags: %w", err)
	}
	if doc.Properties.Desired, err = json.Marshal(t.Desired.document()); err != nil {
		return fmt.Errorf("encode desired properties: %w", err)
	}
	if doc.Properties.Reported, err = json.Marshal(t.Reported.document()); err != nil {
		return fmt.Errorf("encode reported properties: %w", err)
	}
	doc.Etag, doc.Version = t.Etag(), t.Version
	return nil
}

// decodeObject reads exactly one JSON object.
func decodeObject(raw []byte) (map[string]any, error) {
	v, err := decodeValue(raw)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	return m, nil
}

// decodeValue reads exactly one JSON value.
func decodeValue(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, errors.New("not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

package twin

import (
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Names of members that the hub owns.
const (
	metadataKey    = "$metadata"
	versionKey     = "$version"
	updatedKey     = "$lastUpdated"
	updatedVersion = "$lastUpdatedVersion"
)

// Section is one property section: desired or reported.
type Section struct {
	Values  map[string]any `json:"values"`
	Meta    map[string]any `json:"meta"`
	Version int64          `json:"version"`
}

func newSection() Section {
	return Section{
		Values:  map[string]any{},
		Meta:    map[string]any{updatedKey: rest.Format(time.Time{})},
		Version: 1,
	}
}

// stamp is what a write leaves in the metadata of each node that it touches.
type stamp struct {
	at      string
	version int64 // 0: not recorded (reported properties)
}

func (st stamp) put(meta map[string]any) {
	meta[updatedKey] = st.at
	if st.version > 0 {
		meta[updatedVersion] = st.version
	}
}

func (st stamp) leaf() map[string]any {
	m := make(map[string]any, 2)
	st.put(m)
	return m
}

// merge applies a patch; the new version has been counted already.
func (s *Section) merge(patch map[string]any, st stamp) {
	mergeNode(s.Values, s.Meta, patch, st)
}

func mergeNode(values, meta, patch map[string]any, st stamp) {
	st.put(meta)
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(values, k)
			delete(meta, k)
		case map[string]any:
			child, isObject := values[k].(map[string]any)
			childMeta, hasMeta := meta[k].(map[string]any)
			if !isObject || !hasMeta {
				child, childMeta = map[string]any{}, map[string]any{}
				values[k], meta[k] = child, childMeta
			}
			mergeNode(child, childMeta, v, st)
		default:
			values[k] = v
			meta[k] = st.leaf()
		}
	}
}

// replace puts new values in place of all old ones; nulls are left out.
func (s *Section) replace(values map[string]any, st stamp) {
	s.Values, s.Meta = map[string]any{}, map[string]any{}
	mergeNode(s.Values, s.Meta, values, st)
}

// document returns the section as the service side sees it. It shares what it can.
func (s *Section) document() map[string]any {
	out := make(map[string]any, len(s.Values)+2)
	for k, v := range s.Values {
		out[k] = v
	}
	out[metadataKey] = s.Meta
	out[versionKey] = s.Version
	return out
}

// forDevice returns the section as its owner sees it, without metadata.
func (s *Section) forDevice() map[string]any {
	out := make(map[string]any, len(s.Values)+1)
	for k, v := range s.Values {
		out[k] = v
	}
	out[versionKey] = s.Version
	return out
}

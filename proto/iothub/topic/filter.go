package topic

import (
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// FilterKind is what a subscription filter asks for.
type FilterKind uint8

// Kinds of filters (spec iothub-mqtt 5.2). The zero value is a filter of no
// documented form.
const (
	FilterUnknown        FilterKind = iota
	FilterC2D                       // devices/{d}[/modules/{m}]/messages/devicebound/#
	FilterInputs                    // devices/{d}/modules/{m}/# or .../inputs/.../#
	FilterMethods                   // $iothub/methods/POST/#
	FilterTwinResponses             // $iothub/twin/res/#
	FilterDesiredChanges            // $iothub/twin/PATCH/properties/desired/#
)

var filterNames = [...]string{"unknown", "c2d", "inputs", "methods", "twinResponses", "desiredChanges"}

// String returns the kind's name for logs.
func (k FilterKind) String() string {
	if int(k) < len(filterNames) {
		return filterNames[k]
	}
	return "unknown"
}

// ParseFilter classifies a subscription filter. id is the identity that the
// filter names, also when the kind is unknown, and zero for filters that name
// nobody: compare it with the connection's before granting anything. Wildcards in
// the place of an id are taken for an id.
func ParseFilter(s string) (kind FilterKind, id iothub.Identity) {
	switch {
	case strings.HasPrefix(s, methodRequest):
		return FilterMethods, iothub.Identity{}
	case strings.HasPrefix(s, twinDesired):
		return FilterDesiredChanges, iothub.Identity{}
	case s == twinResponse+"#":
		return FilterTwinResponses, iothub.Identity{}
	}
	rest, ok := strings.CutPrefix(s, devices)
	if !ok {
		return FilterUnknown, iothub.Identity{}
	}
	id, after, ok := cutIdentity(rest)
	if !ok {
		return FilterUnknown, iothub.Identity{Device: rest}
	}
	rest = after
	switch {
	case rest == deviceBound+"/#":
		return FilterC2D, id
	case id.IsModule() && rest == "#":
		return FilterInputs, id
	case id.IsModule() && strings.HasPrefix(rest, inputs) && strings.HasSuffix(rest, "/#"):
		return FilterInputs, id
	}
	return FilterUnknown, id
}

// Filter writes the filter of a kind for an identity, in the form that the SDKs
// use; "" for FilterUnknown.
func Filter(kind FilterKind, id iothub.Identity) string {
	switch kind {
	case FilterC2D:
		return base(id) + deviceBound + "/#"
	case FilterInputs:
		return base(id) + inputs + "#"
	case FilterMethods:
		return methodRequest + "#"
	case FilterTwinResponses:
		return twinResponse + "#"
	case FilterDesiredChanges:
		return twinDesired + "#"
	}
	return ""
}

// Match tells whether a topic name falls under a subscription filter by the rules
// of MQTT 3.1.1 (4.7). A filter that is not well-formed matches as if its odd
// wildcards were plain text.
func Match(filter, name string) bool {
	if name == "" || filter == "" {
		return false
	}
	if name[0] == '$' && (filter[0] == '#' || filter[0] == '+') {
		return false
	}
	for {
		if filter == "#" {
			return true
		}
		f, frest, fmore := strings.Cut(filter, "/")
		n, nrest, nmore := strings.Cut(name, "/")
		if f != "+" && f != n {
			return false
		}
		switch {
		case fmore && nmore:
			filter, name = frest, nrest
		case fmore:
			return frest == "#" // "a/#" matches "a" as well
		default:
			return !nmore
		}
	}
}

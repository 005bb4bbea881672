package topic_test

import (
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

func TestParseFilter(t *testing.T) {
	nobody := iothub.Identity{}
	tests := []struct {
		in   string
		kind topic.FilterKind
		id   iothub.Identity
	}{
		{"devices/d1/messages/devicebound/#", topic.FilterC2D, dev},
		{"devices/d1/modules/$m.1/messages/devicebound/#", topic.FilterC2D, mod},
		{"devices/d1/modules/$m.1/inputs/#", topic.FilterInputs, mod},
		{"devices/d1/modules/$m.1/#", topic.FilterInputs, mod},
		{"devices/d1/modules/$m.1/inputs/in1/#", topic.FilterInputs, mod},
		{"$iothub/methods/POST/#", topic.FilterMethods, nobody},
		{"$iothub/methods/POST/x/#", topic.FilterMethods, nobody},
		{"$iothub/twin/res/#", topic.FilterTwinResponses, nobody},
		{"$iothub/twin/PATCH/properties/desired/#", topic.FilterDesiredChanges, nobody},
		{"$iothub/twin/res/+", topic.FilterUnknown, nobody},
		{"devices/d1/inputs/#", topic.FilterUnknown, dev},
		{"devices/d1/#", topic.FilterUnknown, dev},
		{"devices/d1/modules/$m.1/outputs/#", topic.FilterUnknown, mod},
		{"devices/+/messages/devicebound/#", topic.FilterC2D, iothub.DeviceIdentity("+")},
		{"devices/#", topic.FilterUnknown, iothub.DeviceIdentity("#")},
		{"#", topic.FilterUnknown, nobody},
		{"a/b", topic.FilterUnknown, nobody},
		{"", topic.FilterUnknown, nobody},
	}
	for _, tt := range tests {
		if kind, id := topic.ParseFilter(tt.in); kind != tt.kind || id != tt.id {
			t.Errorf("ParseFilter(%q) = %v, %v; want %v, %v", tt.in, kind, id, tt.kind, tt.id)
		}
	}
}

func TestFiltersMatchTheTopicsTheyAreFor(t *testing.T) {
	in := topic.Topic{Kind: topic.Input, Identity: mod, Name: "in1"}
	topics := map[topic.FilterKind]topic.Topic{
		topic.FilterC2D:            {Kind: topic.C2D, Identity: mod, Bag: "a=b"},
		topic.FilterInputs:         in,
		topic.FilterMethods:        {Kind: topic.MethodRequest, Name: "m", RequestID: "1"},
		topic.FilterTwinResponses:  {Kind: topic.TwinResponse, Status: 200, RequestID: "1"},
		topic.FilterDesiredChanges: {Kind: topic.DesiredChange, Version: 1},
	}
	for kind := range topics {
		filter := topic.Filter(kind, mod)
		if got, _ := topic.ParseFilter(filter); got != kind {
			t.Errorf("ParseFilter(%q) = %v, want %v", filter, got, kind)
		}
		for other, name := range topics {
			if got := topic.Match(filter, name.String()); got != (other == kind) {
				t.Errorf("Match(%q, %q) = %v", filter, name, got)
			}
		}
	}
	if !topic.Match("devices/d1/modules/$m.1/#", in.String()) {
		t.Error("wide filter does not match an input")
	}
	if topic.Filter(topic.FilterUnknown, mod) != "" {
		t.Error("unknown filter is not empty")
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		filter, name string
		want         bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a/c", false}, {"a/b", "a", false}, {"a", "a/b", false},
		{"a/+", "a/b", true}, {"a/+", "a/", true}, {"a/+", "a", false}, {"+/b", "a/b", true}, {"a/+/c", "a/b/c", true},
		{"a/#", "a", true}, {"a/#", "a/b/c", true}, {"a/#", "b/a", false}, {"#", "a/b", true},
		{"#", "$iothub/x", false}, {"+/x", "$iothub/x", false}, {"$iothub/#", "$iothub/x", true},
		{"", "a", false}, {"a", "", false}, {"/+", "/a", true}, {"+/+", "/a", true},
	}
	for _, tt := range tests {
		if got := topic.Match(tt.filter, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.filter, tt.name, got)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add("devices/d/modules/m/#", "devices/d/modules/m/inputs/i/")
	f.Add("$iothub/methods/POST/#", "$iothub/methods/POST/x/?$rid=1")
	f.Add("+/#", "a/b")
	f.Fuzz(func(t *testing.T, filter, name string) {
		kind, id := topic.ParseFilter(filter)
		if kind == topic.FilterInputs && !id.IsModule() {
			t.Fatalf("%q: inputs of a device", filter)
		}
		if topic.Match(filter, name) && name != "" && name[0] != '$' && !topic.Match("#", name) {
			t.Fatalf("%q matches %q but # does not", filter, name)
		}
	})
}

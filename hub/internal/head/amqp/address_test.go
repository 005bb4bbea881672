package amqp_test

import (
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestAddresses(t *testing.T) {
	special := iothub.ModuleIdentity("a+b", "$edgeHub")
	tests := []struct {
		address, node string
		id            iothub.Identity
	}{
		{"/devices/d1/messages/events", "events", dev},
		{"devices/d1/messages/events/", "events", dev},
		{"amqps://h.example/devices/d1/messages/events", "events", dev},
		{"amqps://gateway:5671/devices/d1/messages/events", "events", dev},
		{"amqp://anything/devices/d1/modules/m1/messages/events", "events", mod},
		{"/DEVICES/d1/Modules/m1/Messages/Events", "events", mod},
		{"/devices/d1/messages/devicebound", "devicebound", dev},
		{"/devices/d1/messages/deviceBound", "devicebound", dev},
		{"/devices/d1/modules/m1/messages/deviceBound", "devicebound", mod},
		{"/devices/d1/methods/devicebound", "methods", dev},
		{"/devices/d1/modules/m1/methods/deviceBound", "methods", mod},
		{"/devices/d1/twin", "twin", dev},
		{"/devices/d1/modules/m1/twin/", "twin", mod},
		{"/devices/a+b/modules/%24edgeHub/twin", "twin", special},
		{"/devices/a%2bb/modules/$edgeHub/twin", "twin", special},
		{"/devices/100%/twin", "twin", iothub.DeviceIdentity("100%")},
		{"/devices/D1/twin", "twin", iothub.DeviceIdentity("D1")},
		{"/messages/devicebound", "send", iothub.Identity{}},
		{"messages/deviceBound/", "send", iothub.Identity{}},
		{"amqps://h.example:5671/messages/serviceBound/feedback", "feedback", iothub.Identity{}},
		{"/messages/servicebound/FileNotifications", "filenotifications", iothub.Identity{}},
		{"messages/events/", "redirect ", iothub.Identity{}},
		{"/Messages/Events", "redirect ", iothub.Identity{}},
		{"amqps://h.example/messages/events/$management", "redirect $management", iothub.Identity{}},
		{"/messages/events/ConsumerGroups/g/Partitions/0", "redirect ConsumerGroups/g/Partitions/0", iothub.Identity{}},
		{"$management", "management ", iothub.Identity{}},
		{"amqps://h.example:5671/eh/$Management", "management eh", iothub.Identity{}},
		{"eh/ConsumerGroups/$Default/Partitions/0", "partition eh $Default 0", iothub.Identity{}},
		{"amqps://h.example/eh/consumergroups/%24Default/partitions/12/", "partition eh $Default 12", iothub.Identity{}},

		{"", "", iothub.Identity{}},
		{"/", "", iothub.Identity{}},
		{"amqps://h.example", "", iothub.Identity{}},
		{"amqps://h.example/", "", iothub.Identity{}},
		{"/messages", "", iothub.Identity{}},
		{"/messages/event", "", iothub.Identity{}},
		{"eh/ConsumerGroups/$Default/Partitions", "", iothub.Identity{}},
		{"eh/ConsumerGroups/$Default/Partitions/0/0", "", iothub.Identity{}},
		{"eh/Publishers/p", "", iothub.Identity{}},
		{"/devices/d1", "", iothub.Identity{}},
		{"/devices/d1/streams", "", iothub.Identity{}},
		{"/devices/d1/twin/more", "", iothub.Identity{}},
		{"/devices//twin", "", iothub.Identity{}},
		{"/devices/d1/modules//twin", "", iothub.Identity{}},
		{"/devices/d1/modules/twin", "", iothub.Identity{}},
		{"/devices/d1%2fmodules%2fm1/twin", "", iothub.Identity{}}, // a slash in an id
		{"/devices/d1%00/twin", "", iothub.Identity{}},
		{"//devices/d1/twin", "", iothub.Identity{}},
	}
	for _, tt := range tests {
		if node, id := amqp.ParseAddress(tt.address); node != tt.node || id != tt.id {
			t.Errorf("%q: %q of %v; want %q of %v", tt.address, node, id, tt.node, tt.id)
		}
	}
}

func TestUserNamesOfPlain(t *testing.T) {
	tests := []struct {
		user, policy string
		id           iothub.Identity
		ok           bool
	}{
		{"d1@sas.h", "", dev, true},
		{"d1@h", "", dev, true},
		{"d1/modules/m1@sas.h", "", mod, true},
		{"a%2Bb/modules/%24edgeHub@sas.h", "", iothub.ModuleIdentity("a+b", "$edgeHub"), true},
		{"a@b@sas.h", "", iothub.DeviceIdentity("a@b"), true},
		{"service@sas.root.h", "service", iothub.Identity{}, true},
		{"service@root.h", "service", iothub.Identity{}, true},
		{"service", "service", iothub.Identity{}, true},
		{"@sas.h", "", iothub.Identity{}, false},
		{"d1/modules/@sas.h", "", iothub.Identity{}, false},
		{"d 1@sas.h", "", iothub.Identity{}, false},
		{"", "", iothub.Identity{}, false},
	}
	for _, tt := range tests {
		if id, policy, ok := amqp.ParseUser(tt.user); id != tt.id || policy != tt.policy || ok != tt.ok {
			t.Errorf("%q: %v, %q, %v; want %v, %q, %v", tt.user, id, policy, ok, tt.id, tt.policy, tt.ok)
		}
	}
}

// FuzzAddress checks that whatever is accepted names an identity that may exist,
// and that the path of an identity leads to it.
func FuzzAddress(f *testing.F) {
	f.Add("amqps://h:5671/devices/d%31/modules/%24edgeHub/messages/events/")
	f.Add("/messages/serviceBound/feedback")
	f.Fuzz(func(t *testing.T, s string) {
		node, id := amqp.ParseAddress(s)
		if id.IsZero() {
			return
		}
		if again, err := iothub.ParseIdentity(id.String()); err != nil || again != id {
			t.Fatalf("%q gives %q: %v", s, id, err)
		}
		if n, again := amqp.ParseAddress(amqp.Path(id) + "/twin"); n != "twin" || again != id {
			t.Fatalf("%s (%s) leads to %v", amqp.Path(id), node, again)
		}
	})
}

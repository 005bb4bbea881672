package topic_test

import (
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	"pgregory.net/rapid"
)

var (
	dev = iothub.DeviceIdentity("d1")
	mod = iothub.ModuleIdentity("d1", "$m.1")
)

func TestParsePublish(t *testing.T) {
	const r = "$iothub/twin/PATCH/properties/reported/"
	tests := []struct {
		name, in string
		want     topic.Topic
	}{
		{"device telemetry", "devices/d1/messages/events/", topic.Topic{Kind: topic.Telemetry, Identity: dev}},
		{"without the last slash", "devices/d1/messages/events", topic.Topic{Kind: topic.Telemetry, Identity: dev}},
		{"with a bag", "devices/d1/messages/events/a=b&%24.mid=1", topic.Topic{Kind: topic.Telemetry, Identity: dev, Bag: "a=b&%24.mid=1"}},
		{"bag after ?", "devices/d1/messages/events/?a=b", topic.Topic{Kind: topic.Telemetry, Identity: dev, Bag: "a=b"}},
		{"bag before /", "devices/d1/messages/events/a=b/", topic.Topic{Kind: topic.Telemetry, Identity: dev, Bag: "a=b"}},
		{"module telemetry", "devices/d1/modules/$m.1/messages/events/%24.on=o/", topic.Topic{Kind: topic.Telemetry, Identity: mod, Bag: "%24.on=o"}},
		{"ids are not decoded", "devices/a%20b/messages/events/", topic.Topic{Kind: topic.Telemetry, Identity: iothub.DeviceIdentity("a%20b")}},
		{"two levels are no bag", "devices/d1/messages/events/a=b/c=d", topic.Topic{}},
		{"other suffix", "devices/d1/messages/eventsx/", topic.Topic{}},
		{"no device", "devices//messages/events/", topic.Topic{}},
		{"no module", "devices/d1/modules//messages/events/", topic.Topic{}},
		{"case counts", "Devices/d1/messages/events/", topic.Topic{}},
		{"twin get", "$iothub/twin/GET/?$rid=9a", topic.Topic{Kind: topic.TwinGet, RequestID: "9a"}},
		{"rid as received", "$iothub/twin/GET/?$rid=%41=+b", topic.Topic{Kind: topic.TwinGet, RequestID: "%41=+b"}},
		{"patch", r + "?$rid=1", topic.Topic{Kind: topic.TwinPatchReported, RequestID: "1"}},
		{"patch with version", r + "?$rid=1&$version=7", topic.Topic{Kind: topic.TwinPatchReported, RequestID: "1", Version: 7}},
		{"patch, version first", r + "?$version=7&$rid=1&x=y", topic.Topic{Kind: topic.TwinPatchReported, RequestID: "1", Version: 7}},
		{"patch without rid", r, topic.Topic{Kind: topic.TwinPatchReported}},
		{"method response", "$iothub/methods/res/200/?$rid=1", topic.Topic{Kind: topic.MethodResponse, Status: 200, RequestID: "1"}},
		{"negative status", "$iothub/methods/res/-1/?$rid=1", topic.Topic{Kind: topic.MethodResponse, Status: -1, RequestID: "1"}},
		{"unreadable status", "$iothub/methods/res/ok/?$rid=1", topic.Topic{Kind: topic.MethodResponse, Status: topic.BadStatus, RequestID: "1"}},
		{"status over 32 bits", "$iothub/methods/res/3000000000/?$rid=1", topic.Topic{Kind: topic.MethodResponse, Status: topic.BadStatus, RequestID: "1"}},
		{"response without rid", "$iothub/methods/res/200/", topic.Topic{Kind: topic.MethodResponse, Status: 200}},
		{"anything else", "a/b/c", topic.Topic{}},
		{"empty", "", topic.Topic{}},
		{"other $iothub topic", "$iothub/methods/POST/x/?$rid=1", topic.Topic{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := topic.ParsePublish(tt.in)
			if err != nil || got != tt.want {
				t.Errorf("ParsePublish(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestParsePublishRefusesMalformedTwinTopics(t *testing.T) {
	for _, in := range []string{
		"$iothub/twin/POST/?$rid=1",
		"$iothub/twin/GET/",
		"$iothub/twin/GET/?$rid=",
		"$iothub/twin/GET/$rid=1",
		"$iothub/twin/GET?$rid=1",
		"$iothub/twin/PATCH/properties/desired/?$rid=1",
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=x",
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=-1",
		"$iothub/twin/",
	} {
		if got, err := topic.ParsePublish(in); !errors.Is(err, topic.ErrMalformed) {
			t.Errorf("ParsePublish(%q) = %+v, %v; want ErrMalformed", in, got, err)
		}
	}
}

func TestParseDelivery(t *testing.T) {
	tests := []struct {
		name, in string
		want     topic.Topic
	}{
		{"c2d", "devices/d1/messages/devicebound/%24.mid=1", topic.Topic{Kind: topic.C2D, Identity: dev, Bag: "%24.mid=1"}},
		{"c2d without bag", "devices/d1/messages/devicebound/", topic.Topic{Kind: topic.C2D, Identity: dev}},
		{"c2d to a module", "devices/d1/modules/$m.1/messages/devicebound/a=b", topic.Topic{Kind: topic.C2D, Identity: mod, Bag: "a=b"}},
		{"input", "devices/d1/modules/$m.1/inputs/in1/a=b", topic.Topic{Kind: topic.Input, Identity: mod, Name: "in1", Bag: "a=b"}},
		{"input without slash", "devices/d1/modules/$m.1/inputs/in1", topic.Topic{Kind: topic.Input, Identity: mod, Name: "in1"}},
		{"input with an escaped name", "devices/d1/modules/$m.1/inputs/a%2Fb/", topic.Topic{Kind: topic.Input, Identity: mod, Name: "a/b"}},
		{"input of a device", "devices/d1/inputs/in1/", topic.Topic{}},
		{"twin response", "$iothub/twin/res/204/?$rid=1&$version=4", topic.Topic{Kind: topic.TwinResponse, Status: 204, RequestID: "1", Version: 4}},
		{"desired", "$iothub/twin/PATCH/properties/desired/?$version=12", topic.Topic{Kind: topic.DesiredChange, Version: 12}},
		{"method", "$iothub/methods/POST/do.it/?$rid=f", topic.Topic{Kind: topic.MethodRequest, Name: "do.it", RequestID: "f"}},
		{"anything else", "a/b", topic.Topic{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := topic.ParseDelivery(tt.in)
			if err != nil || got != tt.want {
				t.Errorf("ParseDelivery(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
			}
		})
	}
	for _, in := range []string{"$iothub/twin/res/x/?$rid=1", "$iothub/methods/POST//?$rid=1", "$iothub/methods/POST/x/y"} {
		if _, err := topic.ParseDelivery(in); !errors.Is(err, topic.ErrMalformed) {
			t.Errorf("ParseDelivery(%q): %v; want ErrMalformed", in, err)
		}
	}
}

func TestTopicString(t *testing.T) {
	tests := []struct {
		in   topic.Topic
		want string
	}{
		{topic.Topic{Kind: topic.Telemetry, Identity: dev}, "devices/d1/messages/events/"},
		{topic.Topic{Kind: topic.Telemetry, Identity: mod, Bag: "a=b"}, "devices/d1/modules/$m.1/messages/events/a=b"},
		{topic.Topic{Kind: topic.C2D, Identity: dev}, "devices/d1/messages/devicebound/"},
		{topic.Topic{Kind: topic.Input, Identity: mod, Name: "in1"}, "devices/d1/modules/$m.1/inputs/in1/"},
		{topic.Topic{Kind: topic.Input, Identity: mod, Name: "a/b+#%", Bag: "x"}, "devices/d1/modules/$m.1/inputs/a%2Fb%2B%23%25/x"},
		{topic.Topic{Kind: topic.TwinGet, RequestID: "1"}, "$iothub/twin/GET/?$rid=1"},
		{topic.Topic{Kind: topic.TwinPatchReported, RequestID: "1", Version: 3}, "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=3"},
		{topic.Topic{Kind: topic.TwinPatchReported}, "$iothub/twin/PATCH/properties/reported/"},
		{topic.Topic{Kind: topic.TwinResponse, Status: 204, RequestID: "1", Version: 3}, "$iothub/twin/res/204/?$rid=1&$version=3"},
		{topic.Topic{Kind: topic.TwinResponse, Status: 200, RequestID: "1"}, "$iothub/twin/res/200/?$rid=1"},
		{topic.Topic{Kind: topic.MethodRequest, Name: "m", RequestID: "1"}, "$iothub/methods/POST/m/?$rid=1"},
		{topic.Topic{Kind: topic.MethodResponse, Status: 404, RequestID: "1"}, "$iothub/methods/res/404/?$rid=1"},
		{topic.Topic{Kind: topic.DesiredChange, Version: 5}, "$iothub/twin/PATCH/properties/desired/?$version=5"},
		{topic.Topic{}, ""},
	}
	for _, tt := range tests {
		if got := tt.in.String(); got != tt.want {
			t.Errorf("%+v.String() = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestTopicsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawTopic(t)
		s := in.String()
		parse := topic.ParseDelivery
		if in.Kind <= topic.MethodResponse {
			parse = topic.ParsePublish
		}
		got, err := parse(s)
		if err != nil || got != in {
			t.Fatalf("%+v -> %q -> %+v, %v", in, s, got, err)
		}
	})
}

func drawID(t *rapid.T, label string) string {
	return rapid.StringMatching(`[-:.+%_#*?!(),=@$';A-Za-z0-9]{1,128}`).Draw(t, label)
}

func drawTopic(t *rapid.T) topic.Topic {
	in := topic.Topic{Kind: topic.Kind(rapid.IntRange(1, int(topic.MethodRequest)).Draw(t, "kind"))}
	bag := func() string {
		m := drawMessage(t)
		return topic.EncodeBag(m, topic.ToClient)
	}
	rid := rapid.StringMatching(`[^&/?#+\x00]{1,20}`)
	switch in.Kind {
	case topic.Telemetry, topic.C2D:
		in.Identity.Device = drawID(t, "device")
		if rapid.Bool().Draw(t, "is module") {
			in.Identity.Module = drawID(t, "module")
		}
		in.Bag = bag()
	case topic.Input:
		in.Identity = iothub.ModuleIdentity(drawID(t, "device"), drawID(t, "module"))
		in.Name, in.Bag = rapid.StringN(1, 20, -1).Draw(t, "name"), bag()
	case topic.TwinGet:
		in.RequestID = rid.Draw(t, "rid")
	case topic.TwinPatchReported:
		in.RequestID, in.Version = rid.Draw(t, "rid"), rapid.Int64Min(0).Draw(t, "version")
	case topic.MethodResponse:
		in.RequestID, in.Status = rid.Draw(t, "rid"), int(rapid.Int32().Draw(t, "status"))
	case topic.TwinResponse:
		in.RequestID, in.Status = rid.Draw(t, "rid"), int(rapid.Int32().Draw(t, "status"))
		in.Version = rapid.Int64Min(0).Draw(t, "version")
	case topic.DesiredChange:
		in.Version = rapid.Int64Min(0).Draw(t, "version")
	case topic.MethodRequest:
		in.RequestID, in.Name = rid.Draw(t, "rid"), rapid.StringN(1, 20, -1).Draw(t, "name")
	}
	return in
}

func FuzzTopic(f *testing.F) {
	for _, s := range []string{
		"devices/d/messages/events/?a=b/", "devices/d/modules/m/inputs/i/%24.mid=1",
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=2", "$iothub/methods/res/200/?$rid=1",
		"$iothub/twin/res/204/?$rid=1", "$iothub/methods/POST/x%2F/?$rid=1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return // no MQTT string
		}
		// What is parsed and written again must parse to the same.
		for _, parse := range []func(string) (topic.Topic, error){topic.ParsePublish, topic.ParseDelivery} {
			got, err := parse(s)
			if err != nil || got.Kind == topic.Unknown {
				continue
			}
			again, err := parse(got.String())
			if err != nil || again != got {
				t.Fatalf("%q -> %+v -> %q -> %+v, %v", s, got, got.String(), again, err)
			}
		}
	})
}

func BenchmarkParseTelemetry(b *testing.B) {
	const s = "devices/d1/modules/m1/messages/events/%24.mid=7c2d&%24.ct=application%2Fjson&%24.ce=utf-8&level=high"
	b.ReportAllocs()
	for b.Loop() {
		t, err := topic.ParsePublish(s)
		if err != nil {
			b.Fatal(err)
		}
		var m iothub.Message
		if err := topic.DecodeBag(t.Bag, &m, topic.ToHub); err != nil {
			b.Fatal(err)
		}
	}
}

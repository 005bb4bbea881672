package topic_test

import (
	"errors"
	"testing"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	"pgregory.net/rapid"
)

func TestParseUsername(t *testing.T) {
	const hub = "h.azure-devices.net"
	device := topic.Username{HubName: hub, Identity: iothub.DeviceIdentity("d"), APIVersion: "2021-04-12"}
	module := topic.Username{HubName: hub, Identity: iothub.ModuleIdentity("d", "m"), APIVersion: "2021-04-12"}
	with := func(u topic.Username, f func(*topic.Username)) topic.Username { f(&u); return u }
	no := topic.Username{}
	tests := []struct {
		name, in        string
		strict, lenient topic.Username // zero: refused
	}{
		{"device with ?", hub + "/d/?api-version=2021-04-12", device, device},
		{"device without ?", hub + "/d/api-version=2021-04-12", device, device},
		{"module with ?", hub + "/d/m/?api-version=2021-04-12", module, module},
		{"module without ?", hub + "/d/m/api-version=2021-04-12", module, module},
		{"ids are trimmed", hub + "/ d / m /?api-version=2021-04-12", module, module},
		{"ids are not decoded", hub + "/d%20/?api-version=2021-04-12",
			with(device, func(u *topic.Username) { u.Identity.Device = "d%20" }), with(device, func(u *topic.Username) { u.Identity.Device = "d%20" })},
		{"values are decoded, + stays", hub + "/d/?api-version=2021-04-12&DeviceClientType=a%2Fb+c&model-id=dtmi:x;1&auth-chain=d%3Be%2F%24edgeHub",
			with(device, func(u *topic.Username) {
				u.ClientType, u.ModelID, u.AuthChain = "a/b+c", "dtmi:x;1", "d;e/$edgeHub"
			}),
			with(device, func(u *topic.Username) {
				u.ClientType, u.ModelID, u.AuthChain = "a/b+c", "dtmi:x;1", "d;e/$edgeHub"
			})},
		{"first of equal names, unknown names skipped", hub + "/d/?x=y&api-version=2021-04-12&api-version=2&z", device, device},
		{"? inside an id", hub + "/?d?/?api-version=2021-04-12",
			with(device, func(u *topic.Username) { u.Identity.Device = "?d?" }), with(device, func(u *topic.Username) { u.Identity.Device = "?d?" })},
		{"preview SDK of modules", hub + "/d/m/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003",
			with(module, func(u *topic.Username) {
				u.APIVersion, u.ClientType = "2017-06-30", "Microsoft.Azure.Devices.Client/1.5.1-preview-003"
			}),
			with(module, func(u *topic.Username) {
				u.APIVersion, u.ClientType = "2017-06-30", "Microsoft.Azure.Devices.Client/1.5.1-preview-003"
			})},
		{"no api-version", hub + "/d/?DeviceClientType=x", no,
			with(device, func(u *topic.Username) { u.APIVersion, u.ClientType = "", "x" })},
		{"blank api-version", hub + "/d/?api-version=%20", no, with(device, func(u *topic.Username) { u.APIVersion = " " })},
		{"two segments", hub + "/d?api-version=2021-04-12", no, device},
		{"module without a slash before ?", hub + "/d/m?api-version=2021-04-12", no, module},
		{"bare device", hub + "/d", no, with(device, func(u *topic.Username) { u.APIVersion = "" })},
		{"bare module", hub + "/d/m", no, with(module, func(u *topic.Username) { u.APIVersion = "" })},
		{"other six segments", hub + "/d/m/api-version=2017-06-30/DeviceClientType=x/1", no, no},
		{"five segments", hub + "/d/m/x/?api-version=1", no, no},
		{"no device", hub + "//?api-version=1", no, no},
		{"no module", hub + "/d//?api-version=1", no, no},
		{"bad id", hub + "/d~/?api-version=1", no, no},
		{"host only", hub, no, no},
		{"empty", "", no, no},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check := func(kind string, parse func(string) (topic.Username, error), want topic.Username) {
				got, err := parse(tt.in)
				if got != want || (err == nil) != (want != no) || (err != nil && !errors.Is(err, topic.ErrMalformed)) {
					t.Errorf("%s: %+v, %v; want %+v", kind, got, err, want)
				}
			}
			check("strict", topic.ParseUsername, tt.strict)
			check("lenient", topic.ParseUsernameLenient, tt.lenient)
		})
	}
}

func TestUsernamesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := topic.Username{
			HubName:    "h.example",
			Identity:   iothub.DeviceIdentity(drawID(t, "device")),
			APIVersion: "2020-09-30",
			ClientType: rapid.String().Draw(t, "type"),
			ModelID:    rapid.String().Draw(t, "model"),
			AuthChain:  rapid.String().Draw(t, "chain"),
		}
		if rapid.Bool().Draw(t, "is module") {
			in.Identity.Module = drawID(t, "module")
		}
		if got, err := topic.ParseUsername(in.String()); err != nil || got != in {
			t.Fatalf("%+v -> %q -> %+v, %v", in, in.String(), got, err)
		}
	})
}

func FuzzUsername(f *testing.F) {
	for _, s := range []string{"h/d/?api-version=1", "h/d/m/api-version=1&model-id=%41", "h/d?api-version=1", "h/?/?"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := topic.ParseUsername(s)
		lenient, lerr := topic.ParseUsernameLenient(s)
		if err == nil && (lerr != nil || lenient != u) {
			t.Fatalf("%q: strict %+v, lenient %+v, %v", s, u, lenient, lerr)
		}
		if lerr == nil && iothub.CheckID(lenient.Identity.Device) != nil {
			t.Fatalf("%q: device %q", s, lenient.Identity.Device)
		}
	})
}

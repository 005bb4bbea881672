// Package topic reads and writes what the IoT Hub device protocol puts into MQTT
// strings: topic names, subscription filters, property bags and user names
// (spec iothub-mqtt 2.1, 5 and 6). The hubs' MQTT head and the device client
// share it, so both directions are here.
//
// Device and module ids stand in topics as they are, never percent-encoded; the
// values of property bags are always percent-encoded and "+" is a plus. Parsing
// returns substrings of its input where it can, so what it returns keeps the
// input alive.
//
// All functions are pure and may be called concurrently.
package topic

import (
	"errors"
	"strconv"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// ErrMalformed is wrapped by every error of this package: the string breaks the
// grammar, and the same string will always do so.
var ErrMalformed = errors.New("malformed")

// Kind is what a topic name is for.
type Kind uint8

// Kinds of topics. The zero value is a topic of no known form.
const (
	Unknown Kind = iota
	// Client to hub.
	Telemetry         // devices/{d}[/modules/{m}]/messages/events/{bag}
	TwinGet           // $iothub/twin/GET/?$rid=
	TwinPatchReported // $iothub/twin/PATCH/properties/reported/?$rid=[&$version=]
	MethodResponse    // $iothub/methods/res/{status}/?$rid=
	// Hub to client.
	C2D           // devices/{d}[/modules/{m}]/messages/devicebound/{bag}
	Input         // devices/{d}/modules/{m}/inputs/{name}/{bag}
	TwinResponse  // $iothub/twin/res/{status}/?$rid=[&$version=]
	DesiredChange // $iothub/twin/PATCH/properties/desired/?$version=
	MethodRequest // $iothub/methods/POST/{name}/?$rid=
)

var kindNames = [...]string{
	"unknown", "telemetry", "twinGet", "twinPatchReported", "methodResponse",
	"c2d", "input", "twinResponse", "desiredChange", "methodRequest",
}

// String returns the kind's name for logs.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// BadStatus is the Status of a method response whose topic carries no readable
// status (spec iothub-mqtt 11).
const BadStatus = 400000

// Topic is a topic name taken apart. Which fields count depends on Kind; the
// others are zero.
type Topic struct {
	Kind      Kind
	Identity  iothub.Identity // Telemetry, C2D, Input
	Bag       string          // Telemetry, C2D, Input: still encoded; see DecodeBag
	RequestID string          // twin and method topics: exactly as received
	Version   int64           // "$version"; 0 when there is none
	Status    int             // TwinResponse, MethodResponse
	Name      string          // Input: input name. MethodRequest: method name
}

// Beginnings and middles of topic names.
const (
	devices        = "devices/"
	modules        = "modules/"
	events         = "messages/events"
	deviceBound    = "messages/devicebound"
	inputs         = "inputs/"
	twinPrefix     = "$iothub/twin/"
	twinGet        = "$iothub/twin/GET/"
	twinReported   = "$iothub/twin/PATCH/properties/reported/"
	twinDesired    = "$iothub/twin/PATCH/properties/desired/"
	twinResponse   = "$iothub/twin/res/"
	methodRequest  = "$iothub/methods/POST/"
	methodResponse = "$iothub/methods/res/"
)

// String writes the topic name. The slash before a bag is always there, because
// some SDKs drop messages whose topic lacks it, and "$rid" always comes first
// (spec iothub-mqtt 5.3). Unknown gives "".
//
// Ids are written as they are; names of inputs and methods are escaped only
// where they would break the topic apart. The result may be longer than MQTT
// allows (MaxLength): the caller checks.
func (t Topic) String() string {
	switch t.Kind {
	case Telemetry:
		return base(t.Identity) + events + "/" + t.Bag
	case C2D:
		return base(t.Identity) + deviceBound + "/" + t.Bag
	case Input:
		return base(t.Identity) + inputs + escapeName(t.Name) + "/" + t.Bag
	case TwinGet:
		return twinGet + t.query()
	case TwinPatchReported:
		return twinReported + t.query()
	case TwinResponse:
		return twinResponse + strconv.Itoa(t.Status) + "/" + t.query()
	case MethodResponse:
		return methodResponse + strconv.Itoa(t.Status) + "/" + t.query()
	case MethodRequest:
		return methodRequest + escapeName(t.Name) + "/" + t.query()
	case DesiredChange:
		return twinDesired + "?$version=" + strconv.FormatInt(t.Version, 10)
	}
	return ""
}

// MaxLength is the longest topic name that MQTT can carry, in bytes.
const MaxLength = 65535

// query writes "?$rid=...&$version=..."; "" when there is neither.
func (t Topic) query() string {
	switch {
	case t.RequestID != "" && t.Version != 0:
		return "?$rid=" + t.RequestID + "&$version=" + strconv.FormatInt(t.Version, 10)
	case t.RequestID != "":
		return "?$rid=" + t.RequestID
	case t.Version != 0:
		return "?$version=" + strconv.FormatInt(t.Version, 10)
	}
	return ""
}

// base writes "devices/{d}/" or "devices/{d}/modules/{m}/".
func base(id iothub.Identity) string {
	if id.Module == "" {
		return devices + id.Device + "/"
	}
	return devices + id.Device + "/" + modules + id.Module + "/"
}

// escapeName keeps the name of an input or method within one topic level. "%" is
// escaped too, so that clients that decode the level get the name back.
func escapeName(s string) string {
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		clean = !breaksLevel(s[i])
	}
	if clean {
		return s
	}
	b := make([]byte, 0, len(s)+8)
	for i := range len(s) {
		if breaksLevel(s[i]) {
			b = appendEscaped(b, s[i])
		} else {
			b = append(b, s[i])
		}
	}
	return string(b)
}

func breaksLevel(c byte) bool {
	return c < 0x20 || c == 0x7f || strings.IndexByte("/+#%?", c) >= 0
}

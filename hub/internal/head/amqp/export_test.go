package amqp

import (
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// DecodeTelemetry and DecodeFromService translate what devices and services send.
func DecodeTelemetry(w *wire.Message) (*iothub.Message, *wire.Error) { return decode(w, fromDevice) }

func DecodeFromService(w *wire.Message) (*iothub.Message, *wire.Error) { return decode(w, fromService) }

// Encode translates what a client gets.
func Encode(m *iothub.Message, to, input, lock string) *wire.Message {
	return encode(m, to, input, lock)
}

// ParseAddress returns node and identity of an address.
func ParseAddress(s string) (node string, id iothub.Identity) {
	a := parseAddress(s)
	return map[node_]string{
		nodeUnknown: "", nodeEvents: "events", nodeDeviceBound: "devicebound", nodeMethods: "methods", nodeTwin: "twin",
		nodeSend: "send", nodeFeedback: "feedback", nodeFileNotices: "filenotifications",
		nodeRedirect: "redirect " + a.rest, nodeManagement: "management " + a.entity,
		nodePartition: "partition " + a.entity + " " + a.group + " " + a.partition,
	}[a.node], a.id
}

// node_ is node where a result has its name.
type node_ = node

// ParseUser reads the user name of PLAIN.
func ParseUser(s string) (id iothub.Identity, policy string, ok bool) {
	u, ok := parseUser(s)
	return u.id, u.policy, ok
}

// LockTag returns the delivery tag for a lock token.
func LockTag(s string) ([]byte, bool) {
	g, ok := parseGUID(s)
	return g.tag(), ok
}

// Path is where an identity is addressed.
func Path(id iothub.Identity) string { return path(id) }

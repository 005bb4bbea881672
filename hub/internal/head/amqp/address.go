package amqp

import (
	"net/url"
	"strings"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// node is what an address names.
type node uint8

// Nodes of the device side, then of the service side.
const (
	nodeUnknown     node = iota
	nodeEvents           // .../messages/events: telemetry; inputs of a module
	nodeDeviceBound      // .../messages/devicebound: cloud-to-device messages
	nodeMethods          // .../methods/devicebound
	nodeTwin             // .../twin
	nodeSend             // /messages/devicebound: cloud-to-device messages for any device
	nodeFeedback         // /messages/servicebound/feedback
	nodeFileNotices      // /messages/servicebound/filenotifications
	nodeRedirect         // /messages/events/...: the event endpoint is elsewhere
	nodeManagement       // [/{event hub}]/$management
	nodePartition        // /{event hub}/ConsumerGroups/{group}/Partitions/{n}
)

// forService tells the nodes that need the right of a service.
func (n node) forService() bool { return n >= nodeSend }

// address is an address taken apart.
type address struct {
	node node
	id   iothub.Identity // zero for nodes of the service side
	// entity is the event hub of nodeManagement ("" for that of the host) and of
	// nodePartition.
	entity           string
	group, partition string // of nodePartition
	rest             string // of nodeRedirect: what follows
}

// parseAddress reads the address of a link (spec iothub-amqp 5). A scheme with any
// host may stand before it and slashes around it; names of nodes are compared
// without regard to case, ids are percent-decoded after splitting. What is not
// known gives nodeUnknown.
func parseAddress(s string) address {
	path, ok := splitAddress(s)
	if !ok {
		return address{}
	}
	if len(path) < 2 || !strings.EqualFold(path[0], "devices") {
		return serviceAddress(path)
	}
	id := iothub.Identity{Device: decodeID(path[1])}
	path = path[2:]
	if len(path) >= 2 && strings.EqualFold(path[0], "modules") {
		id.Module = decodeID(path[1])
		path = path[2:]
		if iothub.CheckID(id.Module) != nil {
			return address{}
		}
	}
	n := deviceNode(path)
	if n == nodeUnknown || iothub.CheckID(id.Device) != nil {
		return address{}
	}
	return address{node: n, id: id}
}

// splitAddress returns the parts of the path; false when there is none.
func splitAddress(s string) ([]string, bool) {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		if _, s, ok = strings.Cut(rest, "/"); !ok {
			return nil, false
		}
	}
	s = strings.TrimSuffix(strings.TrimPrefix(s, "/"), "/")
	return strings.Split(s, "/"), s != ""
}

func deviceNode(path []string) node {
	switch {
	case matches(path, "messages", "events"):
		return nodeEvents
	case matches(path, "messages", "devicebound"):
		return nodeDeviceBound
	case matches(path, "methods", "devicebound"):
		return nodeMethods
	case matches(path, "twin"):
		return nodeTwin
	}
	return nodeUnknown
}

func serviceAddress(path []string) address {
	switch {
	case matches(path, "messages", "devicebound"):
		return address{node: nodeSend}
	case matches(path, "messages", "servicebound", "feedback"):
		return address{node: nodeFeedback}
	case matches(path, "messages", "servicebound", "filenotifications"):
		return address{node: nodeFileNotices}
	case len(path) >= 2 && matches(path[:2], "messages", "events"):
		return address{node: nodeRedirect, rest: strings.Join(path[2:], "/")}
	case matches(path, management):
		return address{node: nodeManagement}
	case len(path) == 2 && strings.EqualFold(path[1], management) && path[0] != "":
		return address{node: nodeManagement, entity: decodeID(path[0])}
	case len(path) == 5 && strings.EqualFold(path[1], "ConsumerGroups") && strings.EqualFold(path[3], "Partitions") && path[0] != "":
		return address{node: nodePartition, entity: decodeID(path[0]), group: decodeID(path[2]), partition: path[4]}
	}
	return address{}
}

func matches(path []string, words ...string) bool {
	if len(path) != len(words) {
		return false
	}
	for i := range path {
		if !strings.EqualFold(path[i], words[i]) {
			return false
		}
	}
	return true
}

// decodeID percent-decodes an id; one with a broken escape stays as it is, because
// ids may hold percent signs and some clients do not encode.
func decodeID(s string) string {
	if d, err := url.PathUnescape(s); err == nil {
		return d
	}
	return s
}

// escapeID percent-encodes an id for an address.
func escapeID(s string) string { return url.PathEscape(s) }

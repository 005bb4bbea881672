package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The features of the scenarios in client.js, in the order in which they are tried.
var (
	nodeBasics = has("open", "telemetry", "telemetry of 200 KiB", "telemetry in order, 200 in flight")
	nodeTwin   = has("twin get", "twin reported", "twin reported, refused", "twin desired")
	nodeMethod = has("method", "method, 20 at once")
	nodeAgain  = has("reconnect after the hub was killed", "method and desired after it", "token renewal under load", "takeover: the newest wins")
	nodeLast   = has("bad key refused", "close")
)

const (
	noBatch   = "the SDK batches over HTTP only"
	noSettle  = "MQTT knows no reject or abandon"
	noCloudIn = "inputs and module to module calls are edgehub's"
	noHTTP    = "the SDK has no such thing over HTTP"
)

func join(lists ...[]feature) []feature {
	var all []feature
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// c2d are the features of cloud-to-device messages: MQTT can only complete.
func c2d(transport string) []feature {
	if strings.HasPrefix(transport, "mqtt") {
		return join(has("C2D complete"), hasNot(noSettle, "C2D reject", "C2D abandon"))
	}
	return has("C2D complete", "C2D reject", "C2D abandon")
}

// nodeParts are the scenarios of the stock SDKs for Node.
func nodeParts(ctx context.Context, w *world) ([]part, error) {
	var all []part
	var errs []error
	add := func(s *scenario, err error) {
		errs = append(errs, err)
		all = append(all, part{s.name(), func(ctx context.Context, w *world) { w.runScenario(ctx, s) }})
	}
	for _, transport := range []string{"mqtt", "mqtt-ws", "amqp", "amqp-ws"} {
		for _, hub := range hubs {
			add(w.nodeDevice(ctx, transport, hub))
			add(w.nodeModule(ctx, transport, hub))
		}
	}
	add(w.nodeHTTP(ctx))
	for _, transport := range []string{"https", "amqp", "amqp-ws"} {
		add(w.nodeService(ctx, transport))
	}
	for _, transport := range []string{"amqp", "amqp-ws"} {
		add(w.nodeEvents(ctx, transport))
	}
	return all, errors.Join(errs...)
}

// node is a scenario of one of the scripts.
func (w *world) node(script, client, transport, hub string) *scenario {
	return &scenario{
		client: client, transport: transport, hub: hub,
		command: []string{"node", script + ".js"}, dir: filepath.Join(w.o.Scripts, "node"),
		env:   []string{"NODE_EXTRA_CA_CERTS=" + w.bothRoots()},
		limit: 6 * time.Minute,
		config: map[string]any{
			"transport": transport, "service": w.rig.Owner(), "ca": w.root[hub],
		},
	}
}

// bothRoots is the file that has the roots of both hubs: a scenario talks to iothub
// too, as the service.
func (w *world) bothRoots() string { return filepath.Join(w.o.Dir, "roots.pem") }

func (w *world) writeBothRoots() error {
	var all []byte
	for _, hub := range hubs {
		raw, err := os.ReadFile(w.root[hub])
		if err != nil {
			return err
		}
		all = append(all, raw...)
	}
	return os.WriteFile(w.bothRoots(), all, 0o600)
}

func (w *world) nodeDevice(ctx context.Context, transport, hub string) (*scenario, error) {
	s := w.node("client", "Node device", transport, hub)
	l, err := w.device(ctx, hub, "node-"+transport+"-"+hub)
	if err != nil {
		return s, err
	}
	x, err := w.certifiedDevice(ctx, hub, "node-x509-"+transport+"-"+hub)
	if err != nil {
		return s, err
	}
	s.config["device"], s.config["connection"] = l.device, l.connection
	s.config["x509"] = map[string]string{"device": x.device, "connection": x.connection, "cert": x.cert, "key": x.key}
	s.features = join(nodeBasics, hasNot(noBatch, "batch"), nodeTwin, nodeMethod, c2d(transport), nodeAgain, has("X.509"), nodeLast)
	return s, nil
}

func (w *world) nodeModule(ctx context.Context, transport, hub string) (*scenario, error) {
	s := w.node("client", "Node module", transport, hub)
	inputs := has("output to input", "method of a module by way of edgehub")
	l := w.edgeModule("m-" + transport)
	if hub == hubCloud {
		inputs = hasNot(noCloudIn, "output to input", "method of a module by way of edgehub")
		device := "node-modules-" + transport
		if _, err := w.device(ctx, hub, device); err != nil {
			return s, err
		}
		var err error
		if l, err = w.cloudModule(ctx, device, "m"); err != nil {
			return s, err
		}
	} else {
		s.config["output"] = output
	}
	s.config["device"], s.config["module"], s.config["connection"] = l.device, l.module, l.connection
	s.features = join(nodeBasics, nodeTwin, nodeMethod, inputs, nodeAgain, nodeLast)
	return s, nil
}

func (w *world) nodeHTTP(ctx context.Context) (*scenario, error) {
	s := w.node("client", "Node device", "http", hubCloud)
	l, err := w.device(ctx, hubCloud, "node-http")
	if err != nil {
		return s, err
	}
	x, err := w.certifiedDevice(ctx, hubCloud, "node-x509-http")
	if err != nil {
		return s, err
	}
	s.config["device"], s.config["connection"] = l.device, l.connection
	s.config["x509"] = map[string]string{"device": x.device, "connection": x.connection, "cert": x.cert, "key": x.key}
	s.features = join(has("open", "telemetry", "telemetry of 200 KiB"), hasNot("requests go over several connections", "telemetry in order, 200 in flight"),
		has("batch"), hasNot(noHTTP, "twin get", "method"), c2d("http"),
		has("reconnect after the hub was killed", "X.509"), nodeLast)
	return s, nil
}

// nodeService is the service SDK, which knows iothub only.
func (w *world) nodeService(ctx context.Context, transport string) (*scenario, error) {
	s := w.node("service", "Node service", transport, hubCloud)
	l, err := w.device(ctx, hubCloud, "node-service-"+transport)
	if err != nil {
		return s, err
	}
	other, err := w.device(ctx, hubCloud, "node-service-full-"+transport)
	if err != nil {
		return s, err
	}
	s.config["device"], s.config["connection"], s.config["other"] = l.device, l.connection, other.device
	if transport == "https" {
		s.features = has("create a device", "read a device", "list devices", "update a device", "modules of a device",
			"twin: tags, desired, etag", "queries", "deployments", "delete a device", "bad key refused", "method, device away", "method, no answer in time")
	} else {
		s.features = has("open", "feedback receiver", "C2D to an unknown device refused", "C2D and feedback: Success",
			"feedback: Expired", "queue of 50 is full", "close")
	}
	return s, nil
}

// nodeEvents is the client for event hubs, which reads the telemetry of iothub.
func (w *world) nodeEvents(ctx context.Context, transport string) (*scenario, error) {
	s := w.node("events", "Node event-hubs", transport, hubCloud)
	l, err := w.device(ctx, hubCloud, "node-events-"+transport)
	if err != nil {
		return s, err
	}
	s.config["device"], s.config["connection"] = l.device, l.connection
	s.features = has("open", "event hub properties", "partition properties", "from the beginning", "what an event says", "from an offset",
		"from a sequence number", "from a time", "only what comes", "beyond the end refused", "owner level: the higher wins",
		"two readers at once see all", "goes on after the hub was killed", "bad key refused", "close")
	return s, nil
}

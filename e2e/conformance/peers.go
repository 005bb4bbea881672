package conformance

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The features of paho_client.py.
var pahoFeatures = has("telemetry, QoS 0", "telemetry, QoS 1", "retain flag", "empty message and one of 250 KiB", "twin",
	"session resumption", "session resumption after the hub was killed", "will after a lost connection", "no will after a goodbye",
	"takeover: the newest wins", "wrong password", "password that is no token", "client id that differs", "user name without api-version",
	"spoofed topic ends the connection", "spoofed sender is overwritten", "keep-alive by pings")

// The features of proton_client.py.
var protonFeatures = has("SASL PLAIN, sender at least once", "SASL PLAIN, sender at most once", "no SASL, token over $cbs",
	"255 KiB, and 400 KiB refused", "tokens with ids of each type, good and bad", "wrong password",
	"addresses that are not its own refused", "twin get and patch", "heartbeats of 2 s")

// The features of uamqp_client.py.
var uamqpFeatures = has("SASL PLAIN", "MSSBCBS and a token", "255 KiB", "wrong password", "bad token")

// python is a scenario of one of the scripts in Python.
func (w *world) python(script, client, transport, hub string, l *login) *scenario {
	wrong := *l
	wrong.key = newKey()
	config := map[string]any{
		"transport": transport, "host": w.address(hub), "ca": w.root[hub], "hub": w.rig.CloudAddress(), "edge": hub == hubEdge,
		"device": l.device, "module": l.module, "client_id": l.id(), "username": w.username(l),
		"password": l.token(time.Now().Add(time.Hour)), "events": telemetryTopic(l), "path": l.path(),
		"resource": l.resource, "wrong": wrong.token(time.Now().Add(time.Hour)),
	}
	return &scenario{
		client: client, transport: transport, hub: hub, config: config, limit: 5 * time.Minute,
		// Debian's, which has the packages, and not one that stands before it in PATH.
		command: []string{"/usr/bin/python3", "-u", script + ".py"}, dir: filepath.Join(w.o.Scripts, "python"),
		env: []string{"PYTHONDONTWRITEBYTECODE=1"},
	}
}

func (w *world) paho(ctx context.Context, transport, hub string) {
	s := w.python("paho_client", "Paho", transport, hub, w.peers["paho "+hub])
	s.features = pahoFeatures
	w.runScenario(ctx, s)
}

func (w *world) proton(ctx context.Context, hub string) {
	s := w.python("proton_client", "Qpid Proton", "amqp", hub, w.peers["proton "+hub])
	s.features = protonFeatures
	w.runScenario(ctx, s)
}

func (w *world) uamqp(ctx context.Context, hub string) {
	s := w.python("uamqp_client", "uAMQP", "amqp", hub, w.peers["uamqp "+hub])
	s.features = uamqpFeatures
	w.runScenario(ctx, s)
}

// uamqpEvents reads telemetry, which iothub only has.
func (w *world) uamqpEvents(ctx context.Context) {
	s := w.python("uamqp_events", "uAMQP reader", "amqp", hubCloud, w.peers["uamqp "+hubCloud])
	s.config["service"] = w.rig.Owner()
	s.features = has("redirect", "event hub properties", "events from a time on", "bad key refused")
	w.runScenario(ctx, s)
}

// engine runs the clients that the AMQP server alone is tested with: there they see
// settlement in all modes, drain, and messages of every type, which no hub uses.
func (w *world) engine(ctx context.Context) {
	for _, row := range []struct{ client, test string }{{"Qpid Proton", "TestQpidProton"}, {"rhea", "TestRhea"}, {"uAMQP", "TestUAMQP"}} {
		c := &checks{w, row.client, "amqp", hubNone}
		c.check(ctx, "all modes of settlement, drain, credit, 100 links", func(ctx context.Context) (string, error) {
			cmd := exec.CommandContext(ctx, w.o.Engine, "-test.v", "-test.run", "^"+row.test+"$")
			cmd.Dir = w.o.EngineDir
			out, err := cmd.CombinedOutput()
			if err == nil && !strings.Contains(string(out), "--- PASS: "+row.test) {
				err = errors.New("the test did not run")
			}
			if err != nil {
				return "", fmt.Errorf("%w: %s", err, tail(string(out), 20))
			}
			return "", nil
		})
	}
}

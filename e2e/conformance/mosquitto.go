package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
)

// mosquitto runs the programs mosquitto_pub and mosquitto_sub.
type mosquitto struct {
	*checks
	l *login
}

// mosquittoLimit ends one of them.
const mosquittoLimit = 30 * time.Second

func (w *world) mosquitto(ctx context.Context, hub string) {
	m := &mosquitto{&checks{w, "mosquitto", "mqtt", hub}, w.peers["mosquitto "+hub]}
	for qos := range 2 {
		m.check(ctx, fmt.Sprintf("mosquitto_pub, QoS %d", qos), func(ctx context.Context) (string, error) {
			id, body := rand.Text(), "text of mosquitto"
			if out, err := m.run(ctx, m.password(), "mosquitto_pub", "-q", fmt.Sprint(qos), "-t", m.topic(id), "-m", body); err != nil {
				return "", fmt.Errorf("%w: %s", err, out)
			}
			return "", w.ledger.check([]arrival{{Case: id, Origin: m.l.device, Module: m.l.module, Text: body}}, false)
		})
	}
	m.check(ctx, "mosquitto_pub, 50 lines in one connection", m.lines)
	m.check(ctx, "mosquitto_sub: a change of desired properties", m.desired)
	m.check(ctx, "mosquitto_pub, wrong password", func(ctx context.Context) (string, error) {
		id := rand.Text()
		out, err := m.run(ctx, hubrig.Token(m.l.resource, newKey(), time.Now().Add(time.Hour)), "mosquitto_pub", "-q", "1", "-t", m.topic(id), "-m", "x")
		if err == nil || !strings.Contains(out, "not authori") {
			return "", fmt.Errorf("it ended with %w and said: %s", errors.Join(err), out)
		}
		return "", w.ledger.absent([]string{id})
	})
	m.check(ctx, "mosquitto_pub, MQTT 5 refused", func(ctx context.Context) (string, error) {
		id := rand.Text()
		out, err := m.run(ctx, m.password(), "mosquitto_pub", "-V", "mqttv5", "-q", "1", "-t", m.topic(id), "-m", "x")
		if err == nil {
			return "", fmt.Errorf("it was taken: %s", out)
		}
		return "", w.ledger.absent([]string{id})
	})
}

func (m *mosquitto) password() string { return m.l.token(time.Now().Add(time.Hour)) }

func (m *mosquitto) topic(id string) string {
	t := telemetryTopic(m.l)
	if !strings.HasSuffix(t, "/") {
		t += "&"
	}
	return t + "case=" + id
}

func (m *mosquitto) command(ctx context.Context, password, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, append([]string{
		"-h", m.w.address(m.hub), "-p", portMQTT, "--cafile", m.w.root[m.hub], "-i", m.l.id(), "-u", m.w.username(m.l), "-P", password,
	}, args...)...)
}

func (m *mosquitto) run(ctx context.Context, password, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, mosquittoLimit)
	defer cancel()
	out, err := m.command(ctx, password, name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// lines publishes what comes in, a message for each line.
func (m *mosquitto) lines(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, mosquittoLimit)
	defer cancel()
	id := rand.Text()
	cmd := m.command(ctx, m.password(), "mosquitto_pub", "-q", "1", "-l", "-t", m.topic(id))
	var in bytes.Buffer
	for i := range 50 {
		fmt.Fprintf(&in, "%d\n", i)
	}
	cmd.Stdin = &in
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return "", m.w.ledger.inOrder(id, 50)
}

// desired subscribes, and has the desired properties changed until a patch comes: the
// program does not tell when it has subscribed.
func (m *mosquitto) desired(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, mosquittoLimit)
	defer cancel()
	var out bytes.Buffer
	cmd := m.command(ctx, m.password(), "mosquitto_sub", "-q", "1", "-t", "$iothub/twin/PATCH/properties/desired/#", "-C", "1")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	args := []string{"twin", "patch", m.l.device}
	if m.l.module != "" {
		args = append(args, m.l.module)
	}
	value := rand.Text()
	for i := 0; ; i++ {
		_, patchErr := m.w.rig.IoTHub(ctx, append(args, "--desired", fmt.Sprintf(`{"mosquitto":"%s-%d"}`, value, i))...)
		if patchErr != nil {
			cancel()
		}
		select {
		case err := <-ended:
			if err = errors.Join(err, patchErr); err != nil {
				return "", fmt.Errorf("%w: %s", err, out.String())
			}
			if !strings.Contains(out.String(), value) || !strings.Contains(out.String(), "$version") {
				return "", fmt.Errorf("it got %s", out.String())
			}
			return "", nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

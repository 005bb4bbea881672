package conformance

import (
	"context"
	"fmt"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// canary is a well-behaved client that publishes all along, so that what is done to
// others shows if it harms it.
type canary struct {
	client *mqttload.Client
	cancel context.CancelFunc
	done   chan struct{}

	sings   chan struct{} // an element after acknowledgements, if there is room
	acked   int           // valid after done
	slowest time.Duration // valid after done
	err     error         // valid after done
}

const (
	canaryEvery = 20 * time.Millisecond
	// canaryLimit is how long it may wait for an acknowledgement before it counts as
	// harmed. It is that of a client's patience and not of the hubs' speed: the
	// machine is busy with those that attack.
	canaryLimit = 10 * time.Second
)

// startCanary connects as one of the canary's identities.
func (w *world) startCanary(ctx context.Context, hub string) (*canary, error) {
	l := w.canaries[hub]
	client, err := mqttload.Dial(ctx, w.mqttOptions(hub, l))
	if err != nil {
		return nil, fmt.Errorf("canary: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &canary{client: client, cancel: cancel, done: make(chan struct{}), sings: make(chan struct{}, 1)}
	go func() {
		defer close(c.done)
		c.run(ctx, telemetryTopic(l))
	}()
	return c, nil
}

func (c *canary) run(ctx context.Context, topic string) {
	tick := time.NewTicker(canaryEvery)
	defer tick.Stop()
	acked := make(chan struct{}, 1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began := time.Now()
		if c.err = c.client.Publish(topic, []byte(`"alive"`), func() { acked <- struct{}{} }); c.err == nil {
			c.err = c.client.Flush()
		}
		if c.err != nil {
			return
		}
		select {
		case <-acked:
			c.acked++
			c.slowest = max(c.slowest, time.Since(began))
			select {
			case c.sings <- struct{}{}:
			default:
			}
		case <-c.client.Done():
			c.err = fmt.Errorf("its connection ended: %w", c.client.Err())
			return
		case <-time.After(canaryLimit):
			c.err = fmt.Errorf("nothing was acknowledged for %v", canaryLimit)
			return
		}
	}
}

// alive waits until something more was acknowledged, or it has ended.
func (c *canary) alive() {
	for range 3 { // one may be of before, one on its way
		select {
		case <-c.sings:
		case <-c.done:
		}
	}
}

// stop ends it, when it has been seen alive once more, and tells how it was.
func (c *canary) stop() (string, error) {
	c.alive()
	c.cancel()
	<-c.done
	c.client.Close()
	if c.err != nil {
		return "", fmt.Errorf("canary: after %d acknowledgements %w", c.acked, c.err)
	}
	return fmt.Sprintf("canary: %d acknowledged, slowest %v", c.acked, c.slowest.Round(time.Millisecond)), nil
}

// mqttOptions are those of a client with an identity.
func (w *world) mqttOptions(hub string, l *login) mqttload.Options {
	return mqttload.Options{
		Addr: w.address(hub) + ":" + portMQTT, TLS: w.tls(hub), ClientID: l.id(), Username: w.username(l),
		Password: l.token(time.Now().Add(time.Hour)), OnMessage: func(string, []byte) {},
	}
}

// username is that of MQTT.
func (w *world) username(l *login) string {
	return w.rig.CloudAddress() + "/" + l.id() + "/?api-version=2021-04-12"
}

// telemetryTopic takes what goes to the cloud, through the routes of edgehub too.
func telemetryTopic(l *login) string {
	if l.module != "" {
		return "devices/" + l.device + "/modules/" + l.module + "/messages/events/%24.on=" + output
	}
	return "devices/" + l.device + "/messages/events/"
}

package server_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// putEventToken puts a token as clients of event hubs make it: for a path of the
// endpoint, signed with the text of the key.
func putEventToken(ctx context.Context, t *testing.T, s *goamqp.Session, resource, policy, keyText string) {
	t.Helper()
	token, err := sas.New(url.QueryEscape(resource), time.Now().Add(time.Hour), policy, func(data []byte) ([]byte, error) {
		h := hmac.New(sha256.New, []byte(keyText))
		h.Write(data)
		return h.Sum(nil), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.NewReceiver(ctx, "$cbs", nil)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := s.NewSender(ctx, "$cbs", nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &goamqp.Message{Properties: &goamqp.MessageProperties{MessageID: "1"}, Value: token,
		ApplicationProperties: map[string]any{"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": resource}}
	if err := sender.Send(ctx, m, nil); err != nil {
		t.Fatal(err)
	}
	answer, err := r.Receive(ctx, nil)
	if err != nil || answer.ApplicationProperties["status-code"] != int32(200) {
		t.Fatalf("%v, %v", answer, err)
	}
}

// TestEventsOverAMQP goes the way of a reader: from the hub to the event endpoint, to
// the partition of a device, and on after a restart of the hub.
func TestEventsOverAMQP(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	hub, cancel, ended := startHere(t, dir)
	end := func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	owner := login(t, hub)
	_, err := hub.linkService(owner).NewReceiver(ctx, "messages/events/", nil)
	var redirect *goamqp.Error
	if !errors.As(err, &redirect) || redirect.Condition != "amqp:link:redirect" {
		t.Fatal(err)
	}
	const entity = "iothub-ehub-hub-1-0"
	if address := redirect.Info["address"]; address != "amqps://hub.test:5671/"+entity+"/" {
		t.Fatalf("redirected to %v", address)
	}
	described, err := hub.client().EventHub(ctx)
	if err != nil || described.Name != entity || described.Host != host || described.Partitions != 4 || !slices.Equal(described.ConsumerGroups, []string{"$Default"}) {
		t.Errorf("%+v, %v", described, err)
	}

	sender, err := hub.linkDevice(hub.device("device1")).NewSender(ctx, "/devices/device1/messages/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := sender.Send(ctx, goamqp.NewMessage(fmt.Append(nil, i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	const partition = entity + "/ConsumerGroups/$Default/Partitions/2" // that of device1
	key := hub.link(owner.SharedAccessKeyName, owner.SharedAccessKey.Base64())
	r, err := key.NewReceiver(ctx, partition, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(3) {
		m, err := r.Receive(ctx, nil)
		if err != nil || string(m.GetData()) != fmt.Sprint(i) || m.Annotations["x-opt-sequence-number"] != i ||
			m.Annotations["iothub-connection-device-id"] != "device1" || m.Annotations["iothub-message-source"] != "Telemetry" {
			t.Fatalf("%v, %v", m, err)
		}
	}
	end()

	hub, cancel, ended = startHere(t, dir)
	defer end()
	c, err := goamqp.Dial(ctx, "amqps://"+hub.amqp, &goamqp.ConnOptions{HostName: host, SASLType: goamqp.SASLTypeAnonymous(),
		TLSConfig: &tls.Config{RootCAs: hub.roots(), ServerName: host}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	putEventToken(ctx, t, s, "sb://hub.test/"+partition, owner.SharedAccessKeyName, owner.SharedAccessKey.Base64())
	if _, err := s.NewSender(ctx, "/messages/devicebound", nil); err == nil {
		t.Error("a token for events sends messages")
	}
	if r, err = s.NewReceiver(ctx, partition, &goamqp.ReceiverOptions{Filters: []goamqp.LinkFilter{goamqp.NewSelectorFilter("amqp.annotation.x-opt-sequence-number > '1'")}}); err != nil {
		t.Fatal(err)
	}
	if m, err := r.Receive(ctx, nil); err != nil || string(m.GetData()) != "2" {
		t.Errorf("after the restart: %v, %v", m, err)
	}
}

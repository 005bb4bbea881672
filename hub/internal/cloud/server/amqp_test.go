package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/server"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// link opens a session over AMQP, with the user name and token of SASL PLAIN.
func (r *running) link(user, token string) *goamqp.Session {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	c, err := goamqp.Dial(ctx, "amqps://"+r.amqp, &goamqp.ConnOptions{
		HostName: host, SASLType: goamqp.SASLTypePlain(user, token), TLSConfig: &tls.Config{RootCAs: r.roots(), ServerName: host}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	s, err := c.NewSession(ctx, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *running) linkDevice(d rest.Device) *goamqp.Session {
	r.t.Helper()
	key, err := sas.ParseKey(d.Authentication.SymmetricKey.PrimaryKey.Reveal())
	if err != nil {
		r.t.Fatal(err)
	}
	token, err := sas.New(sas.DeviceResource(host, iothub.DeviceIdentity(d.DeviceID)), time.Now().Add(time.Hour), "", key.Sign)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.link(d.DeviceID+"@sas.hub", token)
}

func (r *running) linkService(login connstr.String) *goamqp.Session {
	r.t.Helper()
	token, err := sas.New(sas.HubResource(host), time.Now().Add(time.Hour), login.SharedAccessKeyName, login.SharedAccessKey.Sign)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.link(login.SharedAccessKeyName+"@sas.root.hub", token)
}

func TestAMQP(t *testing.T) {
	hub, cancel, ended := startHere(t, t.TempDir())
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	d := hub.device("d")
	received := make(chan []byte, 10)
	following, unfollow := context.WithCancel(ctx)
	defer unfollow()
	client := hub.client()
	go func() {
		_ = client.Events(following, rest.EventQuery{Follow: true}, func(b []byte) error {
			received <- b
			return nil
		})
	}()

	// A newer connection ends the older one, over any protocol.
	lost := make(chan struct{})
	hub.connect(d, func() { close(lost) })
	device := hub.linkDevice(d)
	sender, err := device.NewSender(ctx, "/devices/d/messages/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-lost
	if err := sender.Send(ctx, goamqp.NewMessage([]byte("over AMQP")), nil); err != nil {
		t.Fatal(err)
	}
	if event := <-received; !bytes.Contains(event, []byte(`"payload":"over AMQP"`)) {
		t.Errorf("event %s", event)
	}

	// A message for it, and what became of that.
	receiver, err := device.NewReceiver(ctx, "/devices/d/messages/devicebound", nil)
	if err != nil {
		t.Fatal(err)
	}
	service := hub.linkService(login(t, hub))
	feedback, err := service.NewReceiver(ctx, "/messages/serviceBound/feedback", nil)
	if err != nil {
		t.Fatal(err)
	}
	send, err := service.NewSender(ctx, "/messages/devicebound", nil)
	if err != nil {
		t.Fatal(err)
	}
	to := "/devices/d/messages/devicebound"
	m := &goamqp.Message{Data: [][]byte{[]byte("go")}, Properties: &goamqp.MessageProperties{To: &to, MessageID: "m1"},
		ApplicationProperties: map[string]any{"iothub-ack": "full"}}
	if err := send.Send(ctx, m, nil); err != nil {
		t.Fatal(err)
	}
	got, err := receiver.Receive(ctx, nil)
	if err != nil || string(got.GetData()) != "go" || len(got.DeliveryTag) != 16 {
		t.Fatalf("%v, %v", got, err)
	}
	if err := receiver.AcceptMessage(ctx, got); err != nil {
		t.Fatal(err)
	}
	news, err := feedback.Receive(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	var records []struct{ OriginalMessageID, StatusCode string }
	if err := json.Unmarshal(news.GetData(), &records); err != nil || len(records) != 1 || records[0].OriginalMessageID != "m1" || records[0].StatusCode != "Success" {
		t.Errorf("feedback %s, %v", news.GetData(), err)
	}

	hub.connect(d, func() {})
	if _, err := receiver.Receive(ctx, nil); err == nil || ctx.Err() != nil {
		t.Errorf("the connection over AMQP stays: %v", err)
	}
}

// login is that of the owner.
func login(t *testing.T, r *running) connstr.String {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.dir, server.ConnectionStringFile))
	if err != nil {
		t.Fatal(err)
	}
	s, err := connstr.Parse(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

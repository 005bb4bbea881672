package mqtt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// FuzzStream feeds an admitted connection with any bytes: nothing may panic, the
// connection must end, and no message may name its own sender.
func FuzzStream(f *testing.F) {
	for _, cp := range []packets.ControlPacket{
		publish(events+"$.cdid=x&a", "body", 1, 1), publish(twinGet+"1", " ", 0, 0), publish(reported+"?$rid=1", "{}", 1, 2),
		publish("$iothub/methods/res/200/?$rid=1", "", 0, 0), puback(1), packets.NewControlPacket(packets.Disconnect),
	} {
		var b bytes.Buffer
		if err := cp.Write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte("\x82\x07\x00\x01\x00\x02a/\x01\xa2\x06\x00\x02\x00\x02a/\xc0\x00"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		for _, flavor := range []mqtt.Flavor{mqtt.Edge, mqtt.Cloud} {
			feed(t, flavor, stream)
		}
	})
}

type checkBackend struct{ t *testing.T }

type checkSession struct{ t *testing.T }

func (b checkBackend) Connect(context.Context, head.Login, head.Client) (head.Session, error) {
	return checkSession(b), nil
}

func feed(t *testing.T, flavor mqtt.Flavor, stream []byte) {
	var errs bytes.Buffer
	srv, err := mqtt.New(mqtt.Options{
		Backend: checkBackend{t}, Flavor: flavor,
		Logger: slog.New(slog.NewTextHandler(&errs, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := net.Pipe()
	go func() {
		var b bytes.Buffer
		_ = connectPacket(dev).Write(&b)
		_, _ = mine.Write(append(b.Bytes(), stream...)) // the hub may close at any byte
		_ = mine.Close()
	}()
	drained := make(chan bool)
	go func() {
		_, _ = io.Copy(io.Discard, mine)
		close(drained)
	}()
	srv.ServeConn(context.Background(), theirs, mqtt.Transport{Protocol: "mqtt"})
	<-drained
	if errs.Len() > 0 {
		t.Fatal(errs.String())
	}
}

func (s checkSession) Telemetry(_ context.Context, m *iothub.Message, done func(error)) {
	if !m.Sender().IsZero() {
		s.t.Errorf("forged sender %v", m.Sender())
	}
	done(nil)
}

func (s checkSession) Twin(context.Context) (iothub.TwinProperties, error) {
	return iothub.TwinProperties{}, nil
}

func (s checkSession) PatchReported(context.Context, json.RawMessage, int64) (int64, error) {
	return 1, nil
}

func (s checkSession) Subscribe(head.Feature)   {}
func (s checkSession) Unsubscribe(head.Feature) {}
func (s checkSession) Close(error)              {}

func (checkBackend) Check(context.Context, head.Login) error { return nil }
func (checkSession) Renew(context.Context, head.Login) error { return nil }

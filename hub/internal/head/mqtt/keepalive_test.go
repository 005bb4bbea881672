package mqtt_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Time is virtual here: the connection is a pipe within a bubble.
func TestSilentClientIsLostAfterItsKeepAlive(t *testing.T) {
	tests := []struct {
		name      string
		flavor    mqtt.Flavor
		keepAlive uint16
		want      time.Duration
	}{
		{"one and a half times", mqtt.Edge, 60, 90 * time.Second},
		{"capped at the edge", mqtt.Edge, 3000, 600 * time.Second},
		{"capped in the cloud", mqtt.Cloud, 65535, 1767 * time.Second},
		{"0 is the cap at the edge", mqtt.Edge, 0, 600 * time.Second},
		{"0 is the cap in the cloud", mqtt.Cloud, 0, 1767 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				srv, err := mqtt.New(mqtt.Options{Backend: b, Logger: slog.New(slog.DiscardHandler), Flavor: tt.flavor})
				if err != nil {
					t.Fatal(err)
				}
				mine, theirs := net.Pipe()
				served := make(chan bool)
				go func() {
					srv.ServeConn(context.Background(), theirs, mqtt.Transport{Protocol: "mqtt-ws"})
					close(served)
				}()
				p, cp := &peer{t, mine}, connectPacket(dev)
				cp.Keepalive = tt.keepAlive
				p.send(cp)
				if ack, err := packets.ReadPacket(mine); err != nil || ack.(*packets.ConnackPacket).ReturnCode != 0 {
					t.Fatal(ack, err)
				}
				s := <-b.Sessions
				if s.Login.Protocol != "mqtt-ws" {
					t.Errorf("protocol %q", s.Login.Protocol)
				}
				// Any packet starts the time anew.
				time.Sleep(tt.want - time.Second)
				p.send(packets.NewControlPacket(packets.Pingreq))
				if _, err := packets.ReadPacket(mine); err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				err = <-s.Closed
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("closed with %v", err)
				}
				if d := time.Since(begin); d < tt.want || d > tt.want+tt.want/16 {
					t.Errorf("lost after %v, want %v", d, tt.want)
				}
				<-served
				mine.Close()
			})
		})
	}
}

func TestClientThatNeverSendsConnectIsClosedAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, err := mqtt.New(mqtt.Options{Backend: newBackend(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		mine, theirs := net.Pipe()
		begin := time.Now()
		srv.ServeConn(context.Background(), theirs, mqtt.Transport{Protocol: "mqtt"})
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("closed after %v", d)
		}
		mine.Close()
	})
}

func TestShutdownEndsConnectionsInEveryState(t *testing.T) {
	b := newBackend()
	h := start(t, b, nil)
	raw := h.dial()
	p, s := h.connect(dev)
	waiting, ws := h.connect(mod)
	waiting.subscribe(1, inputsFilter)
	h.stop()
	raw.closed()
	p.closed()
	waiting.closed()
	if err := headtest.Receive(t, "close", s.Closed); err == nil {
		t.Error("closed as after a goodbye")
	}
	headtest.Receive(t, "close", ws.Closed)
	if c, err := net.Dial("tcp", h.addr); err == nil {
		c.Close()
		t.Error("still listening")
	}
}

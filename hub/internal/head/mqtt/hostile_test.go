package mqtt_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestWhatIsNoConnectIsNotWaitedFor(t *testing.T) {
	h := start(t, newBackend(), nil)
	for name, beginning := range map[string][]byte{
		"a PUBLISH of 300 KiB":     {0x32, 0x80, 0xe0, 0x12},
		"a CONNECT of 1 MiB":       {0x10, 0x80, 0x80, 0x40},
		"a length of five bytes":   {0x10, 0xff, 0xff, 0xff, 0xff},
		"a packet of no such type": {0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := h.dial()
			p.raw(beginning)
			p.closed()
		})
	}
}

func TestLongFiltersAreRefused(t *testing.T) {
	p, _ := start(t, newBackend(), nil).connect(mod)
	if got := fmt.Sprint(p.subscribe(1, strings.Repeat("x", 2048), strings.Repeat("x", 2049))); got != "[1 128]" {
		t.Error(got)
	}
}

func TestAClientCannotFloodTheLog(t *testing.T) {
	var log headtest.LogBuffer
	h := start(t, newBackend(), func(o *mqtt.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	p, _ := h.connect(dev)
	for range 150 {
		p.send(publish(strings.Repeat("x", 30_000), "", 1, 7))
		expect[*packets.PubackPacket](p)
	}
	text := log.String()
	if n := strings.Count(text, "unknown topic"); n != 100 {
		t.Errorf("%d lines", n)
	}
	if strings.Count(text, "the last of this connection") != 1 || len(text) > 100*1000 {
		t.Errorf("%d bytes in the log", len(text))
	}
}

// The model is stamped on every message, and the product kept with the session.
func TestDescriptionsOfAClientAreBounded(t *testing.T) {
	for n, want := range map[int]int{2048: 2048, 2049: 0} {
		b := newBackend()
		p, cp := start(t, b, nil).dial(), connectPacket(mod)
		cp.Username = "h/d1/m1/?api-version=2021-04-12&model-id=" + strings.Repeat("m", n) + "&DeviceClientType=" + strings.Repeat("p", n)
		p.send(cp)
		expect[*packets.ConnackPacket](p)
		if l := headtest.Receive(t, "session", b.Sessions).Login; len(l.ModelID) != want || len(l.Product) != 1024 {
			t.Errorf("model of %d bytes: %d; product: %d", n, len(l.ModelID), len(l.Product))
		}
	}
}

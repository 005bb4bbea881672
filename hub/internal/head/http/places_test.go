package http_test

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	httphead "github.com/breakwater-iot/breakwater/hub/internal/head/http"
)

const hostile = "127.0.0.9"

func places(n int) func(*httphead.Options) {
	return func(o *httphead.Options) { o.MaxConnections = n }
}

// silent connects from an address and says nothing.
func (p *port) silent(t *testing.T, from string) net.Conn {
	t.Helper()
	u, err := url.Parse(p.base)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// closed tells whether the server closes a connection within a time.
func closed(t *testing.T, nc net.Conn, limit time.Duration) bool {
	t.Helper()
	if err := nc.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	_, err := nc.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func TestConnectionsThatSayNothingGiveWay(t *testing.T) {
	p := start(t, &hub{}, places(2))
	first, second := p.silent(t, hostile), p.silent(t, hostile)
	if third := p.silent(t, hostile); !closed(t, third, patience) {
		t.Error("one more from the same place is let in")
	}
	if r, _ := p.do("GET", "/metrics", ""); r.StatusCode != http.StatusOK {
		t.Errorf("another is answered %s", r.Status)
	}
	if !closed(t, first, patience) {
		t.Error("the oldest does not give way")
	}
	if closed(t, second, 20*time.Millisecond) {
		t.Error("two give way to one")
	}
}

func TestWhoHasShownWhoItIsDoesNotGiveWay(t *testing.T) {
	for name, login := range map[string]func(t *testing.T, p *port) (stays func() bool){
		"a module that calls methods": func(t *testing.T, p *port) func() bool {
			invoke := func() bool {
				r, _ := p.do("POST", path, call, caller, token)
				return r.StatusCode == http.StatusOK
			}
			if !invoke() {
				t.Fatal("refused")
			}
			return invoke // on the same connection
		},
		"a device in a WebSocket": func(t *testing.T, p *port) func() bool {
			nc := p.mqttInside(t)
			return func() bool {
				if err := packets.NewControlPacket(packets.Pingreq).Write(nc); err != nil {
					return false
				}
				_, err := packets.ReadPacket(nc)
				return err == nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, &hub{}, places(1))
			stays := login(t, p)
			if other := p.silent(t, hostile); !closed(t, other, patience) {
				t.Error("more are let in than there are places")
			}
			if !stays() {
				t.Error("it has given way")
			}
		})
	}
}

func TestPlaceIsFreeWhenItsConnectionHasEnded(t *testing.T) {
	p := start(t, &hub{}, places(1))
	c, _, err := p.socket(t, "/", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.CloseNow()
	for deadline := time.Now().Add(patience); ; {
		r, err := p.client.Get(p.base + "/metrics")
		if err == nil {
			r.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

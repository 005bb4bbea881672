package amqp_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	goamqp "github.com/Azure/go-amqp"
	"github.com/coder/websocket"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// wsServer serves n over WebSockets until the test ends.
func wsServer(t *testing.T, n *node) string {
	n.closed = make(chan error, 1)
	s := &amqp.Server{Options: amqp.Options{FramePerWrite: true}, NewConn: func(*amqp.Conn) amqp.ConnHandler { return n }}
	var wg sync.WaitGroup
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"AMQPWSB10"}})
		if err != nil {
			t.Error(err)
			return
		}
		wg.Go(func() {
			_ = s.Serve(context.Background(), websocket.NetConn(context.Background(), ws, websocket.MessageBinary))
		})
	}))
	t.Cleanup(func() {
		web.Close()
		wg.Wait()
	})
	return strings.Replace(web.URL, "http", "ws", 1)
}

func dialWS(t *testing.T, url string) *websocket.Conn {
	ws, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{Subprotocols: []string{"AMQPWSB10"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body
	return ws
}

func TestOverAWebSocket(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 300_000)
	n := &node{delivery: func(d *amqp.Delivery) {
		if m, err := d.Message(); err != nil || !bytes.Equal(m.Data[0], body) {
			t.Error(err)
		}
		d.Accept()
	}}
	nc := websocket.NetConn(context.Background(), dialWS(t, wsServer(t, n)), websocket.MessageBinary)
	c, err := goamqp.NewConn(t.Context(), nc, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	session, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := session.NewSender(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sender.Send(t.Context(), goamqp.NewMessage(body), nil); err != nil {
		t.Fatal(err)
	}
}

func TestEachFrameIsOneWebSocketMessage(t *testing.T) {
	ws := dialWS(t, wsServer(t, &node{}))
	defer ws.CloseNow()
	in := []byte("AMQP\x00\x01\x00\x00")
	for _, p := range []wire.Performative{&wire.Open{}, &wire.Begin{}, &wire.Attach{Name: "a"}, &wire.Flow{Echo: true}, &wire.Close{}} {
		in, _ = wire.AppendFrame(in, wire.FrameAMQP, 0, p, nil, 512)
	}
	for _, b := range in { // frames need not match messages on the way in
		if err := ws.Write(t.Context(), websocket.MessageBinary, []byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	frames := 0
	for {
		_, b, err := ws.Read(t.Context())
		if err != nil {
			break
		}
		if frames++; frames == 1 {
			if string(b) != "AMQP\x00\x01\x00\x00" {
				t.Fatalf("%x", b)
			}
		} else if _, n, err := wire.SplitFrame(b, 65536); n != len(b) || err != nil {
			t.Fatalf("%x: %d, %v", b, n, err)
		}
	}
	if frames < 6 { // header, open, begin, attach, flow for credit or echo, close
		t.Fatal(frames)
	}
}

package amqp_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"
	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a handler whose every decision a test can make. Without a function
// it accepts.
type node struct {
	conn     *amqp.Conn
	sasl     func(*amqp.SASL)
	open     func(*amqp.Open)
	attach   func(*amqp.Attach)
	delivery func(*amqp.Delivery)
	credit   func(s *amqp.Sender, credit uint32, drain bool)
	detach   func(*wire.Error)
	closed   chan error

	window uint32
	sender amqp.SenderOptions

	mu      sync.Mutex
	senders []*amqp.Sender
}

func (n *node) OnSASL(s *amqp.SASL) {
	if n.sasl != nil {
		n.sasl(s)
		return
	}
	s.Accept()
}

func (n *node) OnOpen(o *amqp.Open) {
	if n.open != nil {
		n.open(o)
		return
	}
	o.Accept()
}

func (n *node) OnAttach(a *amqp.Attach) {
	switch {
	case n.attach != nil:
		n.attach(a)
	case a.ClientSends():
		a.AcceptReceiver(n, amqp.ReceiverOptions{Window: n.window})
	default:
		s := a.AcceptSender(n, n.sender)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.senders = append(n.senders, s)
	}
}

func (n *node) OnClose(err error) { n.closed <- err }

func (n *node) OnDelivery(d *amqp.Delivery) {
	if n.delivery != nil {
		n.delivery(d)
		return
	}
	d.Accept()
}

func (n *node) OnCredit(s *amqp.Sender, credit uint32, drain bool) {
	if n.credit != nil {
		n.credit(s, credit, drain)
	}
}

func (n *node) OnDetach(err *wire.Error) {
	if n.detach != nil {
		n.detach(err)
	}
}

// waitSender waits for the i-th sending link.
func (n *node) waitSender(t testing.TB, i int) *amqp.Sender {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		n.mu.Lock()
		if len(n.senders) > i {
			defer n.mu.Unlock()
			return n.senders[i]
		}
		n.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	t.Fatal("no sending link")
	return nil
}

// serve runs n on a socket until the test ends, and returns the client's end.
func serve(t testing.TB, n *node, o amqp.Options) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	n.closed = make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := &amqp.Server{Options: o, NewConn: func(c *amqp.Conn) amqp.ConnHandler {
		n.conn = c
		return n
	}}
	wg.Go(func() { _ = s.Serve(ctx, ours) })
	t.Cleanup(func() {
		_ = client.Close()
		cancel()
		wg.Wait()
	})
	return client
}

// dial is serve with a go-amqp client on the other end.
func dial(t testing.TB, n *node, o amqp.Options, co *goamqp.ConnOptions) (*goamqp.Conn, *goamqp.Session) {
	t.Helper()
	nc := serve(t, n, o)
	c, err := goamqp.NewConn(t.Context(), nc, co)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func engineOptions(o engine.Options) amqp.Options { return amqp.Options{Options: o} }

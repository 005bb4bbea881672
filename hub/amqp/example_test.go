package amqp_test

import (
	"context"
	"fmt"
	"net"
	"sync"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// echo is a node: what a client sends to it comes back on the links of the
// same connection on which the client receives.
type echo struct{ out *amqp.Sender }

func (e *echo) OnSASL(s *amqp.SASL) { s.Accept() }
func (e *echo) OnOpen(o *amqp.Open) { o.Accept() }
func (e *echo) OnClose(error)       {}

func (e *echo) OnAttach(a *amqp.Attach) {
	switch {
	case a.Address() != "echo":
		a.Refuse(wire.Errorf(wire.CondNotFound, "no node %q", a.Address()))
	case a.ClientSends():
		a.AcceptReceiver(e, amqp.ReceiverOptions{Window: 10})
	default:
		e.out = a.AcceptSender(e, amqp.SenderOptions{})
	}
}

// OnDelivery accepts a message when its echo has been accepted.
func (e *echo) OnDelivery(d *amqp.Delivery) {
	if e.out == nil {
		d.Release()
		return
	}
	err := e.out.SendPayload(d.Payload(), amqp.SendOptions{}, func(out amqp.Outcome) { d.Settle(out.State) })
	if err != nil {
		d.Release()
	}
}

func (e *echo) OnCredit(*amqp.Sender, uint32, bool) {}
func (e *echo) OnDetach(*wire.Error)                {}

func Example() {
	server := amqp.Server{NewConn: func(*amqp.Conn) amqp.ConnHandler { return &echo{} }}
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(context.Background(), ours) })
	defer wg.Wait()

	ctx := context.Background()
	client, err := goamqp.NewConn(ctx, theirs, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	session, _ := client.NewSession(ctx, nil)
	receiver, _ := session.NewReceiver(ctx, "echo", nil)
	sender, _ := session.NewSender(ctx, "echo", nil)

	sent, _ := sender.SendWithReceipt(ctx, goamqp.NewMessage([]byte("hello")), nil)
	m, err := receiver.Receive(ctx, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(m.GetData()))
	_ = receiver.AcceptMessage(ctx, m)
	_, err = sent.Wait(ctx)
	fmt.Println(err)
	_, err = session.NewReceiver(ctx, "elsewhere", nil)
	fmt.Println(err)
	// Output:
	// hello
	// <nil>
	// *Error{Condition: amqp:not-found, Description: no node "elsewhere", Info: map[]}
}

// Package amqp is an AMQP 1.0 server: it talks to clients over connections
// that others have accepted and hands links and messages to handlers.
//
// # Model
//
// [Server.Serve] runs one connection. A [ConnHandler], made for it by
// Server.NewConn, decides about authentication (SASL), the connection (open)
// and each link (attach). Accepting a link on which the client sends gives a
// [Receiver], on which it receives a [Sender]:
//
//	client sends     --> Receiver --> ReceiverHandler.OnDelivery(d) ... d.Settle(outcome)
//	client receives  <-- Sender.Send(message, settled) <-- ReceiverHandler's opposite: SenderHandler.OnCredit
//
// One goroutine owns the state of a connection, and all handler methods and
// callbacks of that connection run on it, one after the other. They must not
// block; what takes time is done elsewhere and answered later. Every method of
// this package's types may be called from any goroutine, inside handlers too.
//
// # Use
//
// A program accepts connections in its own way (TCP, TLS, a WebSocket as
// net.Conn) and gives each to a server:
//
//	server := &amqp.Server{
//		NewConn: func(c *amqp.Conn) amqp.ConnHandler { return &handler{conn: c} },
//		Options: amqp.Options{Options: engine.Options{Mechanisms: []string{"PLAIN", "ANONYMOUS"}}},
//	}
//	for {
//		nc, err := listener.Accept()
//		...
//		go server.Serve(ctx, nc)
//	}
//
// The handler answers what it is asked. A question need not be answered at
// once: keep it, look the answer up elsewhere, and answer from there.
//
//	func (h *handler) OnSASL(s *amqp.SASL) {
//		if s.Mechanism() == "PLAIN" {
//			_, user, password, ok := amqp.Plain(s.Response)
//			...
//		}
//		s.Accept()
//	}
//	func (h *handler) OnOpen(o *amqp.Open) { o.Accept() }
//	func (h *handler) OnAttach(a *amqp.Attach) {
//		switch {
//		case !h.knows(a.Address()):
//			a.Refuse(wire.Errorf(wire.CondNotFound, "no node %q", a.Address()))
//		case a.ClientSends():
//			a.AcceptReceiver(h, amqp.ReceiverOptions{Window: 1000})
//		default:
//			h.out = a.AcceptSender(h, amqp.SenderOptions{})
//		}
//	}
//	func (h *handler) OnDelivery(d *amqp.Delivery) {
//		m, err := d.Message()
//		...
//		h.store(m, func(err error) { d.Accept() }) // when it is on disk
//	}
//
// The example is a whole program of that kind.
//
// Dynamic nodes, filters, addresses and outcomes have no meaning here: the
// handler sees what the client asks for, and Reply says what it gets. A client
// that is to go elsewhere gets its link accepted and then detached with an
// amqp:link:redirect. To offer SASL EXTERNAL only to clients with a
// certificate, copy the server and change Mechanisms.
//
// # Order and bounds
//
// Messages of one link keep their order in both directions. Dispositions are
// gathered into ranges; links take turns in sending. A client may have at most
// ReceiverOptions.Window messages with the application; a client that does not
// read is not read from either, and is cut off after Options.WriteTimeout.
// Memory of a connection is bounded by the limits of [engine.Options].
//
// # Packages
//
// Package wire is the codec, package engine the state machine without I/O, and
// package cbs serves claims-based security ($cbs), with which clients present
// tokens after the connection is open. Package rpc serves other nodes of requests
// and answers.
//
// Left out are transactions, which are refused, and the resumption of links:
// a link that comes again begins anew.
package amqp

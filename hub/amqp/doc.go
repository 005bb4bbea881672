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
// tokens after the connection is open.
//
// Left out are transactions, which are refused, and the resumption of links:
// a link that comes again begins anew.
package amqp

// Package amqp serves the IoT Hub device protocol over AMQP 1.0 for a head.Backend,
// and the service side of a hub for a head.ServiceBackend (spec iothub-amqp). Both
// hubs use it: edgehub with Flavor Edge, iothub with Flavor Cloud.
//
// The protocol itself is package hub/amqp; here is what its links mean.
//
//	conn      a connection: tokens by identity, put by CBS or SASL PLAIN
//	 ├ client     an identity: one head.Session, from its first link to its last
//	 │  └ link        telemetry, inputs, devicebound, methods (2), twin (2)
//	 └ service    whoever has shown the token of a policy for services
//	    └ serviceLink  messages to devices, feedback, file notices
//
// A connection may carry any number of identities. What happens to one (its token
// expires, it connects elsewhere) ends its links and nothing else. The identity of a
// link is the one in its address, admitted with a token of the same connection; no
// message says who it is from.
//
// Handlers of links run on the goroutine of their connection and never wait: what
// may (the Backend) runs in a lane of the client, one for messages and one for its
// twin, each a goroutine that is there only while there is work.
//
// Every buffer is bounded, see Options. Deliveries wait for credit in their link;
// head.Windowed tells the Backend how many to send.
package amqp

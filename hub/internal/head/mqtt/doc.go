// Package mqtt serves the IoT Hub device protocol over MQTT 3.1.1 for a
// head.Backend (spec iothub-mqtt). Both hubs use it: edgehub with Flavor Edge,
// iothub with Flavor Cloud.
//
// The MQTT server below is mochi-mqtt, of which the head uses connections, packet
// codec and packet dispatch, and nothing of the broker: every PUBLISH is taken out
// of mochi's hands before it would be routed or acknowledged, no subscription
// enters its topic index, each connection has a client id of its own there (so
// that taking over a session is the Backend's decision alone), and its event loop
// with the $SYS topics is never started.
//
// One connection has up to four goroutines: mochi's reader, which runs all hooks;
// mochi's idle writer; the outbox's writer, which puts everything that waits into
// one write; and a twin worker from the first twin request on. ServeConn owns and
// waits for all of them but mochi's writer, which ends by itself when the
// connection is closed.
//
//	client ── reader ──> inbox (unacknowledged window) ──> head.Session
//	   ^                    │ PUBACKs, in order of reception
//	   └──── writer <── outbox (delivery window, queue) <── head.Client
//
// Every buffer is bounded, see Options. What a client sends too fast waits in its
// socket; a client that takes too slowly is disconnected and everything that was
// on its way to it is settled as Lost.
package mqtt

// Package client is a device or a module of IoT Hub: it sends telemetry, receives
// cloud-to-device messages and inputs, reads and writes the twin and answers
// direct methods, through an IoT Hub or an edge hub, over MQTT 3.1.1 or AMQP 1.0 on
// TLS, or on WebSockets.
//
// New makes a client, or FromEnvironment inside a module, or FromConnectionString.
// Run keeps it connected until its context ends; everything else may be called
// from many goroutines at any time.
//
//	c, err := client.FromEnvironment(ctx, os.Getenv, client.Options{Retry: true})
//	...
//	c.OnInput(func(ctx context.Context, input string, m *iothub.Message) error {
//		return c.SendOutput(ctx, "out", m)
//	})
//	return c.Run(ctx)
//
// What is delivered is delivered at least once, both ways: a message counts as
// sent when the hub acknowledged it, and as received when its handler returned
// nil. When a connection ends in between, the message comes again. Order holds
// per client, and within what one goroutine sends.
//
// A token is renewed before it expires: over AMQP on the connection that there is,
// over MQTT by connecting anew. Calls made meanwhile wait; they do not fail.
//
// Over AMQP many clients can use one connection; see Shared.
package client

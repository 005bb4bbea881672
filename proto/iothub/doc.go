// Package iothub is the vocabulary of the IoT Hub device protocol: identities,
// messages, twins and methods, as every Breakwater program and every wire head
// means them. It knows no wire format and no transport, and it imports the
// standard library only.
//
// Names of system properties are those of the routing language ("messageId",
// "connectionDeviceId"), not those of a wire ("$.mid"); packages topic (MQTT) and
// the AMQP mapping translate.
package iothub

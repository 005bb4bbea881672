package client

import (
	"fmt"
	"strings"
)

// Protocol is what a client speaks, and inside of what.
type Protocol uint8

// Protocols. All are on TLS.
const (
	MQTT   Protocol = iota // MQTT 3.1.1, port 8883
	MQTTWS                 // MQTT in WebSockets, port 443
	AMQP                   // AMQP 1.0, port 5671
	AMQPWS                 // AMQP in WebSockets, port 443
)

var protocols = [...]struct {
	name        string // as UpstreamProtocol spells it
	port        int
	subprotocol string // of WebSockets; empty without
}{
	MQTT:   {"Mqtt", 8883, ""},
	MQTTWS: {"MqttWs", 443, "mqtt"},
	AMQP:   {"Amqp", 5671, ""},
	AMQPWS: {"AmqpWs", 443, "AMQPWSB10"},
}

// ParseProtocol finds a protocol by the name that the setting UpstreamProtocol
// gives it, in any case: Amqp, AmqpWs, Mqtt or MqttWs.
func ParseProtocol(name string) (Protocol, error) {
	for p := range protocols {
		if strings.EqualFold(protocols[p].name, name) {
			return Protocol(p), nil
		}
	}
	return 0, fmt.Errorf("%w: protocol %q: want Amqp, AmqpWs, Mqtt or MqttWs", ErrOptions, name)
}

func (p Protocol) valid() bool { return int(p) < len(protocols) }

func (p Protocol) isAMQP() bool { return p == AMQP || p == AMQPWS }

// String returns the name of the protocol.
func (p Protocol) String() string {
	if !p.valid() {
		return "unknown"
	}
	return protocols[p].name
}

// Port returns the port that servers of the protocol listen on.
func (p Protocol) Port() int {
	if !p.valid() {
		return 0
	}
	return protocols[p].port
}

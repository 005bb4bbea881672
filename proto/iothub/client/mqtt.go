package client

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

const apiVersion = "2021-04-12"

// mqttTransport connects over MQTT 3.1.1 on TLS, or on WebSockets in it.
//
// It takes the packets of Eclipse Paho and not its client, because here one
// connection must end with all its goroutines before the next begins, and
// acknowledgements must be tied to the connection they belong to.
type mqttTransport struct {
	o *Options
}

var _ transport = (*mqttTransport)(nil)

func (t *mqttTransport) connect(ctx context.Context, cred credential, in receiver) (link, error) {
	at := t.o.endpoint()
	conn, err := at.open(ctx)
	if err != nil {
		return nil, err
	}
	// The login is not made for contexts, so the end of ctx closes its connection.
	stop := context.AfterFunc(ctx, conn.hangUp)
	br := bufio.NewReader(idleReader{conn, t.o.KeepAlive})
	err = t.login(conn, br, cred)
	if !stop() {
		err = fmt.Errorf("log in: %w", context.Cause(ctx))
	}
	if err != nil {
		conn.hangUp()
		return nil, err
	}
	return newMQTTLink(t.o, conn, br, in), nil
}

// login sends CONNECT and waits for CONNACK.
func (t *mqttTransport) login(conn net.Conn, br *bufio.Reader, cred credential) error {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName = "MQTT"
	p.ProtocolVersion = 4
	p.CleanSession = false
	p.ClientIdentifier = t.o.Identity.String()
	p.Keepalive = uint16(t.o.KeepAlive / time.Second)
	p.UsernameFlag = true
	p.Username = topic.Username{
		HubName:    t.o.HubName,
		Identity:   t.o.Identity,
		APIVersion: apiVersion,
		ClientType: t.o.ProductInfo,
		ModelID:    t.o.ModelID,
		AuthChain:  t.o.AuthChain,
	}.String()
	if cred.token != "" {
		p.PasswordFlag = true
		p.Password = []byte(cred.token)
	}
	if err := p.Write(conn); err != nil {
		return fmt.Errorf("send CONNECT: %w", err)
	}
	answer, err := readPacket(br)
	if err != nil {
		return fmt.Errorf("wait for CONNACK: %w", err)
	}
	ack, ok := answer.(*packets.ConnackPacket)
	if !ok {
		return fmt.Errorf("%w: %T before CONNACK", errProtocol, answer)
	}
	switch ack.ReturnCode {
	case packets.Accepted:
		return nil
	case packets.ErrRefusedBadUsernameOrPassword, packets.ErrRefusedNotAuthorised:
		return fmt.Errorf("%w: CONNACK code %d", ErrUnauthorized, ack.ReturnCode)
	default:
		return fmt.Errorf("%w: CONNACK code %d", ErrRefused, ack.ReturnCode)
	}
}

package dps

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

// Topics of registrations over MQTT (spec iothub-service 16.2).
const (
	answerFilter  = "$dps/registrations/res/#"
	registerTopic = "$dps/registrations/PUT/iotdps-register/"
	statusTopic   = "$dps/registrations/GET/iotdps-get-operationstatus/"
)

const (
	maxPacket    = 128 << 10
	writeTimeout = 10 * time.Second
	// maxSilence caps 1.5 times the keep-alive of a client.
	maxSilence = 5 * time.Minute
	mqttLevel  = 4
)

// CONNACK return codes.
const (
	connackLevel       = 1
	connackClientID    = 2
	connackUnavailable = 3
	connackRefused     = 5
)

// Owns tells by its user name whether an MQTT connection is one of a registration.
func (d *Service) Owns(username string) bool {
	_, rest, ok := strings.Cut(username, "/")
	return ok && strings.HasPrefix(rest, "registrations/")
}

// parseUsername reads "{scope}/registrations/{id}/api-version=...&ClientVersion=...".
func parseUsername(name string) (scope, id string, err error) {
	parts := strings.SplitN(name, "/", 4)
	if len(parts) != 4 || parts[1] != "registrations" || !strings.Contains(parts[3], "api-version=") {
		return "", "", errors.New("the user name is not that of a registration")
	}
	return parts[0], parts[2], nil
}

// registrar is one device that registers over MQTT.
type registrar struct {
	d       *Service
	nc      net.Conn
	r       *bufio.Reader
	claim   claim
	silence time.Duration
	qos     byte
	listens bool
	last    uint16 // packet id
}

// ServeMQTT serves one device from its CONNECT packet on, until it has gone or ctx
// ends.
func (d *Service) ServeMQTT(ctx context.Context, nc net.Conn, peer []*x509.Certificate) {
	unwatch := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer unwatch()
	c := &registrar{d: d, nc: nc, r: bufio.NewReader(nc), claim: claim{peer: peer}}
	if err := c.serve(ctx); err != nil && ctx.Err() == nil {
		d.log.Info("registration over MQTT ended", "registration", c.claim.id, "remote", nc.RemoteAddr(), "error", err)
	}
}

func (c *registrar) serve(ctx context.Context) error {
	first, err := c.read()
	if err != nil {
		return err
	}
	connect, ok := first.(*packets.ConnectPacket)
	if !ok {
		return errors.New("the first packet is no CONNECT")
	}
	code, err := c.connect(connect)
	ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	ack.ReturnCode = code
	if werr := c.write(ack); err != nil || werr != nil {
		return errors.Join(err, werr)
	}
	for {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
			return err
		}
		p, err := c.read()
		if err != nil {
			return err
		}
		if end, err := c.take(ctx, p); end || err != nil {
			return err
		}
	}
}

// connect checks a CONNECT packet and returns the code for its answer.
func (c *registrar) connect(p *packets.ConnectPacket) (code byte, err error) {
	if p.ProtocolVersion != mqttLevel {
		return connackLevel, fmt.Errorf("protocol level %d", p.ProtocolVersion)
	}
	if c.claim.scope, c.claim.id, err = parseUsername(p.Username); err != nil {
		return connackRefused, err
	}
	if !strings.EqualFold(p.ClientIdentifier, c.claim.id) {
		return connackClientID, errors.New("the client id is not the registration id")
	}
	c.claim.token = string(p.Password)
	c.silence = min(time.Duration(p.Keepalive)*3*time.Second/2, maxSilence)
	if c.silence == 0 {
		c.silence = maxSilence
	}
	if _, err := c.d.attest(c.claim); err != nil {
		if errors.As(err, new(*Error)) {
			return connackRefused, err
		}
		return connackUnavailable, err
	}
	return packets.Accepted, nil
}

// take answers one packet; end tells that the client has said goodbye.
func (c *registrar) take(ctx context.Context, p packets.ControlPacket) (end bool, err error) {
	switch p := p.(type) {
	case *packets.PingreqPacket:
		return false, c.write(packets.NewControlPacket(packets.Pingresp))
	case *packets.SubscribePacket:
		return false, c.subscribe(p)
	case *packets.UnsubscribePacket:
		c.listens = false
		ack := packets.NewControlPacket(packets.Unsuback).(*packets.UnsubackPacket)
		ack.MessageID = p.MessageID
		return false, c.write(ack)
	case *packets.PublishPacket:
		if p.Qos > 1 {
			return false, errors.New("QoS 2")
		}
		if p.Qos == 1 {
			ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = p.MessageID
			if err := c.write(ack); err != nil {
				return false, err
			}
		}
		return false, c.publish(ctx, p)
	case *packets.PubackPacket:
		return false, nil
	case *packets.DisconnectPacket:
		return true, nil
	}
	return false, fmt.Errorf("unexpected packet %T", p)
}

func (c *registrar) subscribe(p *packets.SubscribePacket) error {
	const refused = 0x80
	ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	ack.MessageID = p.MessageID
	for i, filter := range p.Topics {
		code := byte(refused)
		if filter == answerFilter && i < len(p.Qoss) {
			c.listens, c.qos = true, min(p.Qoss[i], 1)
			code = c.qos
		}
		ack.ReturnCodes = append(ack.ReturnCodes, code)
	}
	return c.write(ack)
}

// publish carries out a request and publishes its answer.
func (c *registrar) publish(ctx context.Context, p *packets.PublishPacket) error {
	topic, query, _ := strings.Cut(p.TopicName, "?")
	values, err := url.ParseQuery(strings.ReplaceAll(query, "+", "%2B"))
	if err != nil {
		return errors.New("the topic's properties are not encoded")
	}
	rid := values.Get("$rid")
	if len(rid) > maxRid || strings.ContainsAny(rid, "$&?#+/") {
		return errors.New("the request id is not usable")
	}
	var op rest.RegistrationOperation
	status := http.StatusAccepted
	switch topic {
	case registerTopic:
		if c.claim.request, err = parseRegistration(c.claim.id, p.Payload); err == nil {
			op, err = c.d.register(ctx, c.claim)
		}
	case statusTopic:
		op, err = c.d.poll(c.claim, values.Get("operationId"))
	default:
		return errors.New("unknown topic")
	}
	var body any = op
	retry := "&retry-after=" + strconv.Itoa(int(retryAfter/time.Second))
	switch {
	case err != nil:
		e := c.d.judge(ctx, err, "registration", c.claim.id)
		status, body, retry = e.Status, c.d.problem(e), ""
	case op.Status != rest.RegistrationAssigning:
		status, retry = http.StatusOK, ""
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return c.answer("$dps/registrations/res/"+strconv.Itoa(status)+"/?$rid="+rid+retry, raw)
}

// maxRid bounds the request id, which comes back in the answer.
const maxRid = 128

func (c *registrar) answer(topic string, body []byte) error {
	if !c.listens {
		return nil
	}
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos = topic, body, c.qos
	if c.qos > 0 {
		c.last = max(c.last+1, 1)
		p.MessageID = c.last
	}
	return c.write(p)
}

// read reads a packet whose size it has looked at before.
func (c *registrar) read() (packets.ControlPacket, error) {
	head, err := c.r.Peek(2)
	for n := 3; err == nil && n <= 5 && head[n-2]&0x80 != 0; n++ {
		head, err = c.r.Peek(n)
	}
	if err != nil {
		return nil, err
	}
	if size, n := binary.Uvarint(head[1:]); n <= 0 || size > maxPacket {
		return nil, errors.New("the packet is too long")
	}
	p, err := packets.ReadPacket(c.r)
	if err != nil {
		return nil, fmt.Errorf("read packet: %w", err)
	}
	return p, nil
}

func (c *registrar) write(p packets.ControlPacket) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return p.Write(c.nc)
}

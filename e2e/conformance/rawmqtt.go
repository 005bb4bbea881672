package conformance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// packet is an MQTT packet with its true length.
func packet(header byte, body ...[]byte) []byte {
	all := bytes.Join(body, nil)
	return append(binary.AppendUvarint([]byte{header}, uint64(len(all))), all...) // MQTT's form is the same
}

func text(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// connect is a CONNECT that says what it likes.
type connect struct {
	protocol           string
	level, flags       byte
	keepAlive          uint16
	id, user, password string
	will               []byte
}

func (c connect) packet() []byte {
	head := append(text(c.protocol), c.level, c.flags)
	head = binary.BigEndian.AppendUint16(head, c.keepAlive)
	return packet(1<<4, head, text(c.id), c.will, text(c.user), text(c.password))
}

// connectOf is the CONNECT of an identity as it should be, with a clean session.
func (w *world) connectOf(l *login) connect {
	return connect{protocol: "MQTT", level: 4, flags: 0xc2, keepAlive: 60, id: l.id(), user: w.username(l), password: l.token(time.Now().Add(time.Hour))}
}

func publish(qos byte, topic string, id uint16, body []byte) []byte {
	if qos == 0 {
		return packet(3<<4, text(topic), body)
	}
	return packet(3<<4|qos<<1, text(topic), binary.BigEndian.AppendUint16(nil, id), body)
}

func subscribe(id uint16, filter string, qos byte) []byte {
	return packet(8<<4|2, binary.BigEndian.AppendUint16(nil, id), text(filter), []byte{qos})
}

// exchange is one raw conversation: what is sent in a connection of its own, and
// what must come back.
type exchange struct {
	name string
	// connect is sent first and must be accepted; nil: send is the first.
	connect []byte
	send    []byte
	// want is what comes back, and then the connection must end (ends) or live on.
	want []byte
	ends bool
	// absent is a case that must not arrive in the cloud.
	absent string
	// na says why it is not tried.
	na string
}

// answerLimit is how long a hub may take to answer or to close.
const answerLimit = 10 * time.Second

// silence is how long a connection has to live on.
const silence = 300 * time.Millisecond

func (w *world) dialTLS(ctx context.Context, hub, port string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	conn, err := (&tls.Dialer{Config: w.tls(hub)}).DialContext(ctx, "tcp", net.JoinHostPort(w.address(hub), port))
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

func (w *world) exchange(ctx context.Context, hub, port string, e exchange) error {
	conn, err := w.dialTLS(ctx, hub, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return err
	}
	if e.connect != nil {
		if err := accepted(conn, e.connect); err != nil {
			return err
		}
	}
	if _, err := conn.Write(e.send); err != nil && !e.ends {
		return fmt.Errorf("write: %w", err)
	}
	got := make([]byte, len(e.want))
	if n, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("answer is %x, want %x: %w", got[:n], e.want, err)
	}
	if !bytes.Equal(got, e.want) {
		return fmt.Errorf("answer is %x, want %x", got, e.want)
	}
	if !e.ends {
		if err := conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
	}
	n, err := conn.Read(make([]byte, 1))
	switch late := errors.Is(err, os.ErrDeadlineExceeded); {
	case n > 0:
		return errors.New("more than the answer came")
	case e.ends && late:
		return fmt.Errorf("the connection did not end within %v", answerLimit)
	case !e.ends && !late:
		return fmt.Errorf("the connection ended: %w", err)
	}
	if e.absent != "" {
		return w.ledger.absent([]string{e.absent})
	}
	return nil
}

// accepted logs in.
func accepted(conn net.Conn, connect []byte) error {
	if _, err := conn.Write(connect); err != nil {
		return err
	}
	var got [4]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return fmt.Errorf("CONNACK: %w", err)
	}
	if got[0] != 2<<4 || got[3] != 0 {
		return fmt.Errorf("CONNACK is %x", got)
	}
	return nil
}

func connack(code byte) []byte { return []byte{2 << 4, 2, 0, code} }

func (w *world) mqttExchanges(hub string, l *login) []exchange {
	edge := hub == hubEdge
	pick := func(cloud, edgehub byte) byte {
		if edge {
			return edgehub
		}
		return cloud
	}
	good := w.connectOf(l)
	with := func(change func(*connect)) []byte {
		c := good
		change(&c)
		return c.packet()
	}
	own, ok := telemetryTopic(l), good.packet()
	refusedBy := func(name string, code byte, change func(*connect)) exchange {
		return exchange{name: name, send: with(change), want: connack(code), ends: true}
	}
	closes := func(name string, send []byte) exchange {
		return exchange{name: name, connect: ok, send: send, ends: true}
	}
	unknown := exchange{name: "publish to an unknown topic", connect: ok, send: publish(1, "nonsense/topic", 5, nil), ends: true}
	if edge { // logged, dropped and acknowledged
		unknown.ends, unknown.want = false, []byte{4 << 4, 2, 0, 5}
	}
	later := ""
	if edge {
		later = "edgehub looks at the credentials of its clients every 5 minutes"
	}
	bag := own
	if l.module != "" {
		bag += "&"
	}
	return []exchange{
		// First, as its time runs from now.
		{name: "token that runs out", na: later, send: with(func(c *connect) { c.password = l.token(time.Now().Add(3*time.Second - 5*time.Minute)) }), want: connack(0), ends: true},
		{name: "first packet is not CONNECT", send: publish(0, own, 0, nil), ends: true},
		{name: "an HTTP request", send: []byte("GET / HTTP/1.1\r\nHost: hub\r\n\r\n"), ends: true},
		{name: "a length of five bytes", send: []byte{1 << 4, 0xff, 0xff, 0xff, 0xff, 0x7f}, ends: true},
		{name: "a length of 256 MiB", send: []byte{1 << 4, 0xff, 0xff, 0xff, 0x7f}, ends: true},
		refusedBy("protocol level 3", 1, func(c *connect) { c.level = 3 }),
		refusedBy("no client id", pick(2, 3), func(c *connect) { c.id = "" }),
		refusedBy("client id of somebody else", 5, func(c *connect) { c.id = "somebody" }),
		refusedBy("user name without api-version", pick(5, 3), func(c *connect) { c.user = w.rig.CloudAddress() + "/" + l.id() + "/nonsense" }),
		refusedBy("empty user name", pick(5, 3), func(c *connect) { c.user = "" }),
		refusedBy("token of a wrong key", 5, func(c *connect) { o := *l; o.key = newKey(); c.password = o.token(time.Now().Add(time.Hour)) }),
		refusedBy("token for somebody else", 5, func(c *connect) { o := *l; o.resource += "x"; c.password = o.token(time.Now().Add(time.Hour)) }),
		refusedBy("token expired 6 minutes ago", 5, func(c *connect) { c.password = l.token(time.Now().Add(-6 * time.Minute)) }),
		{name: "token expired 4 minutes ago is taken", send: with(func(c *connect) { c.password = l.token(time.Now().Add(-4 * time.Minute)) }), want: connack(0)},
		refusedBy("unknown device", 5, func(c *connect) { c.id = "nobody"; c.user = w.rig.CloudAddress() + "/nobody/?api-version=2021-04-12" }),
		refusedBy("will on a topic of somebody else", 5, func(c *connect) { c.flags |= 4; c.will = append(text("devices/other/messages/events/"), text("x")...) }),
		{name: "reserved flag of CONNECT", send: with(func(c *connect) { c.flags |= 1 }), ends: true},
		closes("second CONNECT", ok),
		{name: "publish with QoS 2 is not routed", connect: ok, send: publish(2, bag+"case=raw-qos2-"+hub, 5, []byte("1")), ends: true, absent: "raw-qos2-" + hub},
		{name: "publish on a topic of somebody else", connect: ok, send: publish(1, "devices/other/messages/events/case=raw-spoof-"+hub, 5, nil), ends: true, absent: "raw-spoof-" + hub},
		unknown,
		closes("publish of 400 KiB", publish(1, own, 5, make([]byte, 400<<10))),
		closes("publish with a wildcard in the topic", publish(1, own+"#", 5, nil)),
		closes("publish with packet id 0", publish(1, own, 0, nil)),
		closes("malformed twin topic", publish(0, "$iothub/twin/POST/?$rid=1", 0, nil)),
		closes("a CONNACK from the client", connack(0)),
		closes("a packet of reserved type", []byte{0, 0}),
		{name: "ping", connect: ok, send: []byte{12 << 4, 0}, want: []byte{13 << 4, 0}},
		{name: "subscribe with QoS 2 grants 1", connect: ok, send: subscribe(7, "$iothub/twin/res/#", 2), want: []byte{9 << 4, 3, 0, 7, 1}},
		{name: "subscribe to a topic of somebody else", connect: ok, send: subscribe(7, "devices/other/messages/devicebound/#", 1), want: []byte{9 << 4, 3, 0, 7, 0x80}},
		{name: "unsubscribe of what is not subscribed", connect: ok, send: packet(10<<4|2, []byte{0, 9}, text("a/b")), want: []byte{11 << 4, 2, 0, 9}},
		{name: "publish before the CONNACK", send: append(bytes.Clone(ok), publish(1, own, 5, nil)...), want: append(connack(0), 4<<4, 2, 0, 5)},
		{name: "silent for more than 1.5 of its keep-alive", send: with(func(c *connect) { c.keepAlive = 1 }), want: connack(0), ends: true},
	}
}

// rawMQTT tries what only a faulty client does, each in a connection of its own.
func (w *world) rawMQTT(ctx context.Context, hub string) {
	c := &checks{w, "raw bytes", "mqtt", hub}
	for _, e := range w.mqttExchanges(hub, w.hostiles[hub]) {
		if e.na != "" {
			c.na(e.name, e.na)
			continue
		}
		c.check(ctx, e.name, func(ctx context.Context) (string, error) { return "", w.exchange(ctx, hub, portMQTT, e) })
	}
}

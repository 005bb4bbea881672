package upstream_test

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/cbs"
	"github.com/breakwater-iot/breakwater/hub/amqp/engine"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

// amqpPeer is the cloud's end of an AMQP connection, on the project's own engine.
type amqpPeer struct {
	c      *cloud
	conn   *amqp.Conn
	tokens *cbs.Node

	// Guarded by cloud.mu.
	puts     int       // tokens that came
	expiry   time.Time // of the hub's own token
	sessions map[uint16]iothub.Identity
	links    []*amqpLink
}

// amqpLink is one link of a peer, in either direction.
type amqpLink struct {
	p          *amqpPeer
	id         iothub.Identity
	node       string
	receiver   *amqp.Receiver
	sender     *amqp.Sender
	subscribed bool // twin: to desired properties
}

func (c *cloud) serveAMQP(conn net.Conn) {
	s := &amqp.Server{
		Options: amqp.Options{Options: engine.Options{Mechanisms: []string{"MSSBCBS", "PLAIN", "ANONYMOUS"}}},
		NewConn: func(conn *amqp.Conn) amqp.ConnHandler {
			p := &amqpPeer{c: c, conn: conn, sessions: map[uint16]iothub.Identity{}}
			p.tokens = cbs.New(p.putToken)
			c.set(func() { c.peers[p] = true })
			return p
		},
	}
	_ = s.Serve(c.ctx, conn)
}

func (p *amqpPeer) OnSASL(s *amqp.SASL) {
	if s.Mechanism() != "ANONYMOUS" {
		p.c.t.Errorf("SASL %s", s.Mechanism())
	}
	s.Accept()
}
func (p *amqpPeer) OnOpen(o *amqp.Open) { o.Accept() }
func (p *amqpPeer) OnClose(error)       { p.c.set(func() { delete(p.c.peers, p) }) }

func (p *amqpPeer) putToken(r *cbs.Request) {
	token, err := sas.Parse(string(r.Token))
	if err != nil || r.Type != "servicebus.windows.net:sastoken" || r.Name != token.Resource || !token.Covers(self) || !token.Verify(key) {
		p.c.t.Errorf("token %v named %q: %v", token, r.Name, err)
		r.Respond(cbs.Unauthorized, "no")
		return
	}
	p.c.set(func() { p.puts++; p.expiry = token.Expiry })
	r.Respond(cbs.OK, "")
}

// node splits the address of a node.
func node(address string) (id iothub.Identity, rest string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(address, "/"), "/")
	if len(parts) < 3 || parts[0] != "devices" {
		return id, "", false
	}
	for i := range parts {
		parts[i], _ = url.PathUnescape(parts[i])
	}
	id.Device, parts = parts[1], parts[2:]
	if parts[0] == "modules" && len(parts) > 2 {
		id.Module, parts = parts[1], parts[2:]
	}
	return id, strings.Join(parts, "/"), true
}

func (p *amqpPeer) OnAttach(a *amqp.Attach) {
	if cbs.Is(a.Address()) {
		p.tokens.Attach(a)
		return
	}
	id, rest, ok := node(a.Address())
	properties := a.Client().Properties
	chain := properties.Text("com.microsoft:auth-chain")
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	switch other := p.sessions[a.Channel()]; {
	case !ok:
		a.Refuse(wire.Errorf(wire.CondNotFound, "no node %q", a.Address()))
		return
	case p.c.refuse || p.c.revoked[id.String()] || time.Now().After(p.expiry):
		a.Refuse(wire.Errorf(wire.CondUnauthorizedAccess, "not you"))
		return
	case id != self && !strings.HasPrefix(chain, id.String()+";"):
		p.c.t.Errorf("%s attaches with the chain %q", id, chain)
		a.Refuse(wire.Errorf(wire.CondUnauthorizedAccess, "no chain"))
		return
	case !other.IsZero() && other != id && rest != "messages/events":
		p.c.t.Errorf("%s and %s share a session", id, other)
	}
	p.sessions[a.Channel()] = id
	l := &amqpLink{p: p, id: id, node: rest}
	p.links = append(p.links, l)
	if a.ClientSends() {
		if rest == "messages/events" {
			p.c.logins = append(p.c.logins, topic.Username{
				Identity: id, AuthChain: chain, ClientType: properties.Text("com.microsoft:client-version"),
			})
		}
		l.receiver = a.AcceptReceiver(l, amqp.ReceiverOptions{Window: 1000})
		return
	}
	l.sender = a.AcceptSender(l, amqp.SenderOptions{})
}

func (l *amqpLink) OnCredit(*amqp.Sender, uint32, bool) {}
func (l *amqpLink) OnDetach(*wire.Error) {
	l.p.c.set(func() {
		if i := slices.Index(l.p.links, l); i >= 0 {
			l.p.links = slices.Delete(l.p.links, i, i+1)
		}
	})
}

func (l *amqpLink) OnDelivery(d *amqp.Delivery) {
	m, err := d.Message()
	if err != nil {
		l.p.c.t.Errorf("message of %s: %v", l.id, err)
		d.Reject(nil)
		return
	}
	switch l.node {
	case "messages/events":
		l.telemetry(d, m)
	case "twin":
		d.Accept()
		l.twin(m)
	case "methods/devicebound":
		d.Accept()
		l.p.c.set(func() { l.p.c.answers = append(l.p.c.answers, m) })
	}
}

func (l *amqpLink) telemetry(d *amqp.Delivery, m *wire.Message) {
	c := l.p.c
	body, _ := m.Body()
	if reason, ok := strings.CutPrefix(string(body), "reject "); ok {
		d.Reject(wire.Errorf(reason, "as you wish"))
		return
	}
	c.mu.Lock()
	hit, deaf, mute := c.hit, c.deaf || c.lost[l], c.mute
	c.lost[l] = deaf
	if !deaf && !c.forgetful {
		c.received[l.id.String()] = append(c.received[l.id.String()], string(body))
	}
	c.mu.Unlock()
	if hit != nil {
		hit(l.id.String())
	}
	if !deaf && !mute {
		d.Accept()
	}
}

func (l *amqpLink) twin(m *wire.Message) {
	answer := &wire.Message{Properties: &wire.Properties{CorrelationID: m.Properties.CorrelationID}}
	status, body := int32(200), ""
	sent, _ := m.Body()
	switch m.Annotations.Text("operation") {
	case "GET":
		body = `{"desired":{"$version":1},"reported":{"$version":1}}`
	case "PATCH":
		status = 204
		if n, err := strconv.Atoi(string(sent)); err == nil {
			status = int32(n)
		} else {
			answer.Annotations = answer.Annotations.WithSymbol("version", wire.Long(2))
		}
	case "PUT":
		l.p.c.set(func() {
			for _, other := range l.p.links {
				if other.id == l.id && other.sender != nil {
					other.subscribed = true
				}
			}
		})
	default:
		l.p.c.t.Errorf("twin operation %q", m.Annotations.Text("operation"))
	}
	answer.Annotations = answer.Annotations.WithSymbol("status", wire.Int(status))
	answer.Data = [][]byte{[]byte(body)}
	l.p.c.sendAMQP(func(other *amqpLink) bool {
		return other.p == l.p && other.id == l.id && other.node == "twin"
	}, answer)
}

// sendAMQP sends a message on the links that fit.
func (c *cloud) sendAMQP(fits func(*amqpLink) bool, m *wire.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.peers {
		for _, l := range p.links {
			if l.sender == nil || !fits(l) {
				continue
			}
			id := l.id.String()
			_ = l.sender.Send(m, amqp.SendOptions{Tag: slices.Repeat([]byte{7}, 16), Settled: l.sender.SettledOnly()}, func(o amqp.Outcome) {
				if l.node == "messages/devicebound" {
					c.set(func() { c.outcomes = append(c.outcomes, fmt.Sprint(id, " ", o.State.Code, " ", o.Lost)) })
				}
			})
		}
	}
}

// publishAMQP delivers what a topic stands for.
func (c *cloud) publishAMQP(t topic.Topic, body string) {
	m := wire.NewMessage([]byte(body))
	switch t.Kind {
	case topic.DesiredChange:
		c.sendAMQP(func(l *amqpLink) bool { return l.node == "twin" && l.subscribed }, m)
	case topic.MethodRequest:
		m.Properties = &wire.Properties{CorrelationID: wire.String("00000000-0000-0000-0000-00000000000" + t.RequestID)}
		m.ApplicationProperties = m.ApplicationProperties.With("IoThub-methodname", wire.String(t.Name))
		c.sendAMQP(func(l *amqpLink) bool { return l.node == "methods/devicebound" }, m)
	case topic.C2D:
		c.sendAMQP(func(l *amqpLink) bool { return l.node == "messages/devicebound" && l.id == t.Identity }, m)
	}
}

// revoke takes an identity's links away and refuses new ones.
func (c *cloud) revoke(id iothub.Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked[id.String()] = true
	for p := range c.peers {
		for _, l := range p.links {
			switch err := wire.Errorf(wire.CondUnauthorizedAccess, "revoked"); {
			case l.id != id:
			case l.receiver != nil:
				l.receiver.Detach(err)
			default:
				l.sender.Detach(err)
			}
		}
	}
}

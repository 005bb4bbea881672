package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/listen"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// protocolLevel is that of MQTT 3.1.1, the only one served.
const protocolLevel = 4

// CONNACK return codes (MQTT 3.1.1, 3.2.2.3).
const (
	connackLevel        = 1
	connackClientID     = 2
	connackUnavailable  = 3
	connackUnauthorized = 5
)

// refusal is a CONNECT that gets a CONNACK other than 0.
type refusal struct {
	code   byte
	reason string // for Events
	err    error
}

func (r *refusal) Error() string { return "connect refused: " + r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(code byte, reason string, format string, args ...any) *refusal {
	return &refusal{code: code, reason: reason, err: fmt.Errorf(format, args...)}
}

// readConnect looks at a CONNECT before mochi checks it. It takes out what mochi
// would refuse although MQTT 3.1.1 allows it (an empty password, an empty will
// payload) and the whole will, which mochi would publish.
func (c *client) readConnect(pk *packets.Packet) *refusal {
	p := &pk.Connect
	if pk.ProtocolVersion != protocolLevel {
		return refuse(connackLevel, ReasonProtocol, "protocol level %d", pk.ProtocolVersion)
	}
	edge := c.srv.opts.Flavor == Edge
	if p.ClientIdentifier == "" {
		if edge {
			return refuse(connackUnavailable, ReasonClientID, "no client id")
		}
		return refuse(connackClientID, ReasonClientID, "no client id")
	}
	u, err := c.parseUsername(p.Username)
	if err != nil {
		code := byte(connackUnauthorized)
		if edge {
			code = connackUnavailable
		}
		return refuse(code, ReasonUsername, "%w", err)
	}
	c.id, c.clean = u.Identity, p.Clean
	if p.ClientIdentifier != u.Identity.String() {
		return refuse(connackUnauthorized, ReasonClientID, "client id and user name differ")
	}
	if p.WillFlag {
		if c.will, err = c.parseWill(p); err != nil {
			return refuse(connackUnauthorized, ReasonWill, "%w", err)
		}
		p.WillFlag, p.WillRetain, p.WillQos, p.WillTopic, p.WillPayload = false, false, 0, "", nil
	}
	c.login = head.Login{
		Identity: u.Identity, Protocol: c.transport.Protocol, Remote: c.wire.RemoteAddr(),
		Token: string(p.Password), HubName: u.HubName,
		AuthChain: onBehalf(u.AuthChain), CleanSession: p.Clean,
	}
	c.login.Describe(u.ClientType, u.ModelID)
	if len(p.Password) == 0 {
		// A password goes before a certificate (spec iothub-mqtt 4).
		c.login.Peer = c.transport.Peer
	}
	p.PasswordFlag, p.Password = false, nil
	return nil
}

// onBehalf is a chain that names somebody besides the client, without empty parts, or
// "": then this is an ordinary login (spec iothub-mqtt 3.5).
func onBehalf(chain string) string {
	parts := strings.FieldsFunc(chain, func(r rune) bool { return r == ';' })
	if len(parts) < 2 {
		return ""
	}
	return strings.Join(parts, ";")
}

func (c *client) parseUsername(name []byte) (topic.Username, error) {
	if c.srv.opts.Flavor == Edge {
		return topic.ParseUsername(string(name))
	}
	return topic.ParseUsernameLenient(string(name))
}

// connect asks the Backend and restores the session. After it returned nil mochi
// sends the CONNACK.
func (c *client) connect(keepAlive uint16) *refusal {
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.opts.AuthTimeout)
	defer cancel()
	session, err := c.srv.opts.Backend.Connect(ctx, c.login, c)
	c.login.Token = ""
	if err != nil {
		if errors.Is(err, head.ErrUnauthorized) || errors.Is(err, head.ErrInvalid) || errors.Is(err, head.ErrNotFound) {
			return refuse(connackUnauthorized, ReasonNotAuthenticated, "%w", err)
		}
		return refuse(connackUnavailable, ReasonUnavailable, "%w", err)
	}
	c.session = session
	if !c.srv.admit(c.id) {
		return refuse(connackUnavailable, ReasonTooManyClients, "%d clients are connected", c.srv.opts.MaxClients)
	}
	c.admitted = true
	listen.Known(c.ctx)
	if err := c.restore(ctx); err != nil {
		return refuse(connackUnavailable, ReasonSessionStore, "session store: %w", err)
	}
	if c.ctx.Err() != nil {
		return refuse(connackUnavailable, ReasonReplaced, "connection ended meanwhile")
	}
	c.wire.admit(c.idleTime(keepAlive))
	return nil
}

// restore loads, creates or deletes the stored session.
func (c *client) restore(ctx context.Context) error {
	store := c.srv.opts.Sessions
	if c.clean {
		return store.Delete(ctx, c.id)
	}
	subs, found, err := store.Load(ctx, c.id)
	if err != nil {
		return err
	}
	if !found {
		return store.Save(ctx, c.id, nil)
	}
	c.present = true
	c.subs.restore(subs)
	return nil
}

// idleTime is how long the client may be silent.
func (c *client) idleTime(keepAlive uint16) time.Duration {
	d := time.Duration(keepAlive) * 3 * time.Second / 2
	if d == 0 {
		return c.srv.opts.MaxKeepAlive
	}
	return min(d, c.srv.opts.MaxKeepAlive)
}

// refused writes the CONNACK of a refusal. The bytes do not go through mochi,
// which knows other codes.
func (c *client) refused(r *refusal) {
	c.log.Info("mqtt connect refused", "identity", head.Clip(c.id.String()), "code", r.code, "err", head.Clip(r.err.Error()))
	if f := c.srv.opts.Events.ConnectFailed; f != nil {
		f(c.id, r.reason)
	}
	_, err := c.wire.Write([]byte{packets.Connack << 4, 2, 0, r.code})
	if err != nil {
		c.log.Debug("mqtt connack", "err", err)
	}
	c.because(r)
}

// onConnect is the OnConnect hook. The id under which mochi knows the connection
// is one of its own and its session a clean one, so that mochi neither displaces
// nor inherits anything.
func (c *client) onConnect(cl *mochi.Client, pk packets.Packet) error {
	if r := c.connect(pk.Connect.Keepalive); r != nil {
		c.refused(r)
		return r
	}
	c.mochiID = c.srv.uniqueID(cl.ID)
	cl.ID = c.mochiID
	cl.Properties.Clean = true
	cl.Properties.Username = nil
	return nil
}

// will is what the Backend gets when the connection ends without goodbye.
type will struct {
	bag    string
	body   []byte
	retain bool
}

// parseWill accepts only the client's own telemetry topic (spec iothub-mqtt 2.5).
func (c *client) parseWill(p *packets.ConnectParams) (*will, error) {
	if p.WillQos > 1 {
		return nil, fmt.Errorf("will: QoS %d", p.WillQos)
	}
	t, err := topic.ParsePublish(p.WillTopic)
	if err != nil {
		return nil, fmt.Errorf("will: %w", err)
	}
	if t.Kind != topic.Telemetry || t.Identity != c.id {
		return nil, errors.New("will: not the client's own telemetry topic")
	}
	if err := topic.DecodeBag(t.Bag, new(iothub.Message), topic.ToHub); err != nil {
		return nil, fmt.Errorf("will: %w", err)
	}
	return &will{bag: t.Bag, body: p.WillPayload, retain: p.WillRetain}, nil
}

func (w *will) message() *iothub.Message {
	m := &iothub.Message{Body: w.body}
	_ = topic.DecodeBag(w.bag, m, topic.ToHub) // parseWill has checked it
	m.Properties.Set("iothub-MessageType", "Will")
	if w.retain {
		m.Properties.Set("mqtt-retain", "true")
	}
	return m
}

package mqtt

import (
	"errors"
	"strings"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// hook is where mochi calls the head. All methods run on the reader goroutine of
// the connection, except OnPacketEncode, which runs where mochi writes: the same.
//
// How mochi (2.7) treats the results, which its documentation does not say:
// OnPacketRead ends the connection with ErrRejectPacket and ignores every other
// error; OnPublish with ErrRejectPacket neither routes nor acknowledges the
// packet; an error of OnConnect closes without a CONNACK.
type hook struct {
	mochi.HookBase
	srv *Server
}

// Reasons for ending a connection.
var (
	errProtocol  = errors.New("protocol violation")
	errQoS2      = errors.New("publish with QoS 2")
	errSecond    = errors.New("second CONNECT")
	errForeign   = errors.New("topic of another identity")
	errUnknown   = errors.New("publish to an unknown topic")
	errOversized = errors.New("message too large")
)

// clientOf finds the head's side of a connection.
func clientOf(cl *mochi.Client) *client { return cl.Net.Conn.(*wire).client }

// ID implements mochi.Hook.
func (h *hook) ID() string { return "iothub" }

// Provides implements mochi.Hook.
func (h *hook) Provides(b byte) bool {
	switch b {
	case mochi.OnPacketRead, mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnSessionEstablished,
		mochi.OnACLCheck, mochi.OnPublish, mochi.OnSubscribe, mochi.OnUnsubscribe,
		mochi.OnPacketEncode, mochi.OnPacketProcessed:
		return true
	}
	return false
}

// OnPacketRead sees every packet first.
func (h *hook) OnPacketRead(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	c := clientOf(cl)
	c.goesOn()
	if c.ctx.Err() != nil {
		return pk, packets.ErrRejectPacket // stopped; the rest of the read buffer does not count
	}
	switch pk.FixedHeader.Type {
	case packets.Connect:
		if c.connecting {
			return c.end(pk, errSecond)
		}
		c.connecting = true
		if r := c.readConnect(&pk); r != nil {
			c.refused(r)
			return pk, packets.ErrRejectPacket
		}
		if pk.ConnectValidate() != packets.CodeSuccess {
			return c.end(pk, errProtocol) // mochi would answer it with a code of MQTT 5
		}
	case packets.Publish:
		if pk.FixedHeader.Qos > 1 {
			return c.end(pk, errQoS2)
		}
		if mochiDrops(pk.TopicName) {
			c.publish(&pk)
		}
	case packets.Puback:
		c.out.acked(pk.PacketID)
	case packets.Disconnect:
		c.because(nil)
	case packets.Auth:
		return c.end(pk, errProtocol)
	}
	return pk, nil
}

// mochiDrops tells topics that mochi drops without asking anyone: those that
// begin with $SYS or $SHARE in any case.
func mochiDrops(name string) bool {
	return len(name) > 1 && name[0] == '$' && (name[1]|0x20) == 's' &&
		!strings.ContainsAny(name, "+#") && !mochi.IsValidFilter(name, true)
}

// end gives the reason and makes mochi close the connection.
func (c *client) end(pk packets.Packet, reason error) (packets.Packet, error) {
	c.stop(reason)
	return pk, packets.ErrRejectPacket
}

// OnConnect authenticates.
func (h *hook) OnConnect(cl *mochi.Client, pk packets.Packet) error {
	return clientOf(cl).onConnect(cl, pk)
}

// OnConnectAuthenticate says yes: OnConnect has done it.
func (h *hook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

// OnACLCheck says yes: topics and filters are checked by what follows.
func (h *hook) OnACLCheck(*mochi.Client, string, bool) bool { return true }

// OnSessionEstablished comes after the CONNACK.
func (h *hook) OnSessionEstablished(cl *mochi.Client, _ packets.Packet) { clientOf(cl).established() }

// OnPublish takes the packet; mochi shall never see it again.
func (h *hook) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	clientOf(cl).publish(&pk)
	return pk, packets.ErrRejectPacket
}

// OnSubscribe grants filters and hides them from mochi's topic index.
func (h *hook) OnSubscribe(cl *mochi.Client, pk packets.Packet) packets.Packet {
	clientOf(cl).subscribe(pk.Filters)
	pk.Filters = nil
	return pk
}

// OnUnsubscribe removes filters.
func (h *hook) OnUnsubscribe(cl *mochi.Client, pk packets.Packet) packets.Packet {
	clientOf(cl).unsubscribe(pk.Filters)
	pk.Filters = nil
	return pk
}

// OnPacketEncode puts in what mochi does not know.
func (h *hook) OnPacketEncode(cl *mochi.Client, pk packets.Packet) packets.Packet {
	switch c := clientOf(cl); pk.FixedHeader.Type {
	case packets.Connack:
		pk.SessionPresent = c.present && pk.ReasonCode == 0
	case packets.Suback:
		pk.ReasonCodes, c.suback = c.suback, nil
	}
	return pk
}

// OnPacketProcessed tells the Backend of new features, now that the SUBACK is
// written.
func (h *hook) OnPacketProcessed(cl *mochi.Client, pk packets.Packet, err error) {
	if pk.FixedHeader.Type != packets.Subscribe || err != nil {
		return
	}
	c := clientOf(cl)
	for _, f := range c.fresh {
		c.session.Subscribe(f)
	}
	c.fresh = nil
}

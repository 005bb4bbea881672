package amqp

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const feedbackType = "application/vnd.microsoft.iothub.feedback.json"

// service is the service side of a connection: who has shown the token of a policy
// that may act as a service.
type service struct {
	conn   *conn
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	session head.ServiceSession // the newest
	timer   *time.Timer         // of its expiry
	ended   bool
	links   map[*serviceLink]bool
}

// connectService authenticates a service and begins, or renews, the service side. It
// tells whether the service may only read events.
func (c *conn) connectService(ctx context.Context, login head.ServiceLogin) (eventsOnly bool, err error) {
	login.Protocol, login.Remote, login.Peer = c.t.Protocol, c.net.RemoteAddr(), c.t.Peer
	session, err := c.srv.opts.Services.ConnectService(ctx, login)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false, head.ErrUnavailable
	}
	if path := session.EventPath(); path != "" {
		return true, c.grantEvents(path, session.Expires())
	}
	if c.service == nil {
		s := &service{conn: c, links: make(map[*serviceLink]bool)}
		s.ctx, s.cancel = context.WithCancel(c.ctx)
		c.service = s
	}
	c.service.renew(session)
	return false, nil
}

// renew gives a service another session. Links stay.
func (s *service) renew(session head.ServiceSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = session
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if at := session.Expires(); !at.IsZero() && !s.ended {
		s.timer = time.AfterFunc(left(at), func() { s.expired(session) })
	}
}

// left is how long it is until a time. Longer timers than this overflow; no connection
// lives that long.
func left(at time.Time) time.Duration { return min(time.Until(at), 100*365*24*time.Hour) }

// expired ends the service side when its token has run out, unless another one came.
func (s *service) expired(session head.ServiceSession) {
	s.mu.Lock()
	current := s.session == session
	s.mu.Unlock()
	if !current {
		return
	}
	s.conn.mu.Lock()
	if s.conn.service == s {
		s.conn.service = nil
	}
	s.conn.mu.Unlock()
	s.conn.log.Info("amqp service ended by expiry of its token")
	s.conn.detachUngranted()
	s.end(wireError(head.ErrExpired))
}

// end detaches all links.
func (s *service) end(why *wire.Error) {
	s.mu.Lock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
	links := make([]*serviceLink, 0, len(s.links))
	for l := range s.links {
		links = append(links, l)
	}
	s.mu.Unlock()
	s.cancel()
	for _, l := range links {
		l.detach(why)
	}
}

func (s *service) current() head.ServiceSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}

// attachService accepts a link of the service side.
func (c *conn) attachService(a *amqp.Attach, n node) {
	c.mu.Lock()
	s := c.service
	c.mu.Unlock()
	switch {
	case c.srv.opts.Services == nil:
		a.Refuse(wire.Errorf(wire.CondNotFound, "no node has this address"))
		return
	case s == nil:
		a.Refuse(wire.Errorf(wire.CondUnauthorizedAccess, "no token of a service"))
		return
	case a.ClientSends() != (n == nodeSend):
		a.Refuse(wire.Errorf(wire.CondNotAllowed, "the node is not for this direction"))
		return
	}
	l := &serviceLink{s: s, node: n}
	l.lane.spawn = c.spawn
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		a.Refuse(wireError(head.ErrExpired))
		return
	}
	if a.ClientSends() {
		l.receiver = a.AcceptReceiver(l, amqp.ReceiverOptions{Window: controlWindow})
	} else {
		l.sender = a.AcceptSender(l, amqp.SenderOptions{ManualConfirm: true})
	}
	s.links[l] = true
}

// serviceLink is one link of a service.
type serviceLink struct {
	s        *service
	node     node
	receiver *amqp.Receiver
	sender   *amqp.Sender
	lane     lane

	mu      sync.Mutex
	pulling bool
	cancel  context.CancelFunc
	gone    bool
}

func (l *serviceLink) detach(why *wire.Error) {
	switch {
	case l.receiver != nil:
		l.receiver.Detach(why)
	case l.sender != nil:
		l.sender.Detach(why)
	}
}

// OnDetach implements the handlers of both directions.
func (l *serviceLink) OnDetach(*wire.Error) {
	l.mu.Lock()
	l.gone = true
	if l.cancel != nil {
		l.cancel()
	}
	l.mu.Unlock()
	l.s.mu.Lock()
	delete(l.s.links, l)
	l.s.mu.Unlock()
}

// OnDelivery implements amqp.ReceiverHandler: a message for a device.
func (l *serviceLink) OnDelivery(d *amqp.Delivery) {
	to, m, refusal := c2d(d)
	if refusal != nil {
		d.Reject(refusal)
		return
	}
	l.lane.do(func() {
		switch err := l.s.current().SendToDevice(l.s.ctx, to, m); {
		case err == nil:
			d.Accept()
		case errors.Is(err, head.ErrThrottled):
			d.Reject(wire.Errorf(wire.CondResourceLimitExceeded, "the queue of the device is full"))
		default:
			d.Reject(messageError(err))
		}
	}, 0) // the window of the link bounds it
}

// c2d decodes a message for a device (spec iothub-amqp 10.1).
func c2d(d *amqp.Delivery) (iothub.Identity, *iothub.Message, *wire.Error) {
	w, err := d.Message()
	if err != nil {
		return iothub.Identity{}, nil, wire.Errorf(wire.CondDecodeError, "malformed message")
	}
	var to address
	if w.Properties != nil {
		to = parseAddress(w.Properties.To)
	}
	if to.node != nodeDeviceBound {
		return to.id, nil, wire.Errorf(condArgument, "to must be /devices/{id}/messages/devicebound")
	}
	m, refusal := decode(w, fromService)
	if refusal != nil {
		return to.id, nil, refusal
	}
	if m.Size() > maxServiceMessage {
		return to.id, nil, wire.Errorf(wire.CondMessageSizeExceeded, "message of more than %d bytes", maxServiceMessage)
	}
	return to.id, m, nil
}

// OnCredit implements amqp.SenderHandler: feedback is fetched while there is credit.
func (l *serviceLink) OnCredit(s *amqp.Sender, credit uint32, _ bool) {
	if credit == 0 || l.node != nodeFeedback {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pulling || l.gone {
		return
	}
	ctx, cancel := context.WithCancel(l.s.ctx)
	l.pulling, l.cancel = true, cancel
	l.s.conn.spawn(func() {
		defer cancel()
		l.pull(ctx, s)
	})
}

// pull fetches feedback and sends it, until the credit is used up or the link gone.
func (l *serviceLink) pull(ctx context.Context, s *amqp.Sender) {
	for {
		l.mu.Lock()
		if l.gone || s.Credit() == 0 {
			l.pulling = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		b, err := l.s.current().Feedback(ctx)
		if err != nil {
			l.mu.Lock()
			l.pulling = false
			l.mu.Unlock()
			if ctx.Err() == nil {
				l.s.conn.log.Warn("amqp feedback", "err", err)
				l.detach(wireError(err))
			}
			return
		}
		l.sendFeedback(s, b)
	}
}

func (l *serviceLink) sendFeedback(s *amqp.Sender, b head.FeedbackBatch) {
	lock, ok := parseGUID(b.LockToken)
	if !ok {
		lock = newGUID()
	}
	m := wire.NewMessage(b.Body)
	m.Properties = &wire.Properties{
		MessageID: wire.String(lock.String()), UserID: []byte(b.Hub),
		To: "/messages/serviceBound/feedback", ContentType: feedbackType,
	}
	m.Annotations = m.Annotations.
		WithSymbol(keyEnqueuedTime, wire.TimestampValue(wire.TimestampOf(b.Enqueued))).
		WithSymbol(keyDeliveryCount, wire.Ubyte(0)).
		WithSymbol(keyLockToken, wire.String(lock.String()))
	err := s.Send(m, amqp.SendOptions{Tag: lock.tag()}, func(o amqp.Outcome) {
		l.lane.do(func() { // not on the goroutine of the connection, which must not wait
			confirm(&o, b.Settle(outcome(&o)))
		}, 0) // the credit of the link bounds it
	})
	if err != nil {
		b.Settle(head.Lost)
	}
}

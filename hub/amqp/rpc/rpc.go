// Package rpc serves nodes of requests and answers over AMQP, such as $cbs and
// $management: a client sends requests on one link and receives the answers on
// another.
//
// A [Node] belongs to one connection, whose handler hands it the links to its
// address.
//
// Clients differ in how they number requests and name the link for the answer. The
// answer carries the request's message-id, with its type, as correlation-id and goes
// to the first of these that there is: the link of the same session with the target
// address that the request names in reply-to, the newest link of the session, the
// newest of the connection. If there is none it waits for one.
package rpc

import (
	"sync"
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// Bounds of a node. Whoever is connected may use one, before it has shown who it is.
const (
	// window is how many requests of a link may be without an answer.
	window = 100
	// maxHeld is how many answers wait for a link; the oldest is dropped for one more.
	maxHeld = 16
	// maxLinks is how many links may be attached for answers.
	maxLinks = 64
	// maxAnswers is how many answers may be on their way, over all links, for a client
	// that gives no credit; one more is dropped.
	maxAnswers = 1024
	// maxRequest is how large a request may be. Tokens have less than a kilobyte.
	maxRequest = 64 << 10
	// maxEcho is how long a message-id and a reply-to may be that an answer repeats.
	maxEcho = 1 << 10
)

// Request is what a client asks. It must be answered once, now or later, by
// Respond.
type Request struct {
	// Message is the request; nil if it is malformed.
	Message *wire.Message

	n       *Node
	d       *amqp.Delivery
	channel uint16
	done    atomic.Bool
}

// Respond answers the request; correlation-id and address of m are set here. Only
// the first answer counts. Any goroutine may call it.
func (r *Request) Respond(m *wire.Message) {
	if !r.done.CompareAndSwap(false, true) {
		return
	}
	m.Properties = new(wire.Properties)
	if r.Message != nil && r.Message.Properties != nil {
		if id := r.Message.Properties.MessageID; small(id) {
			m.Properties.CorrelationID = id
		}
		if to := r.Message.Properties.ReplyTo; len(to) <= maxEcho {
			m.Properties.To = to
		}
	}
	r.d.Accept()
	r.n.respond(answer{r.channel, m.Properties.To, m})
}

// small tells whether an answer may repeat a message-id. Types that none may have do
// not count.
func small(id wire.Value) bool {
	switch id.Kind() {
	case wire.KindNull, wire.KindUlong, wire.KindUint, wire.KindUUID:
		return true
	case wire.KindString, wire.KindBinary, wire.KindSymbol:
		return len(id.String()) <= maxEcho
	}
	return false
}

// Node is one node of one connection.
type Node struct {
	handle func(*Request)

	answers atomic.Int64 // on their way

	mu       sync.Mutex
	attached int     // links for answers, those included that take none any more
	links    []*link // on which the client receives, oldest first
	held     []answer
}

type answer struct {
	channel uint16
	replyTo string
	message *wire.Message
}

// link is one on which the client receives. It is made before its Sender, which
// is set under the mutex.
type link struct {
	n       *Node
	channel uint16
	address string
	sender  *amqp.Sender
}

// New returns a node that hands requests to handle, which runs on the goroutine of
// the connection and must not block; it may answer later.
func New(handle func(*Request)) *Node { return &Node{handle: handle} }

// Attach accepts a link of the node.
func (n *Node) Attach(a *amqp.Attach) {
	if a.ClientSends() {
		a.AcceptReceiver(&requests{n, a.Channel()}, amqp.ReceiverOptions{Window: window, Reply: amqp.Reply{MaxMessageSize: maxRequest}})
		return
	}
	n.mu.Lock()
	full := n.attached >= maxLinks
	if !full {
		n.attached++
	}
	n.mu.Unlock()
	if full {
		a.Refuse(wire.Errorf(wire.CondResourceLimitExceeded, "more than %d links for answers", maxLinks))
		return
	}
	l := &link{n: n, channel: a.Channel()}
	if t := a.Client().Target; t != nil {
		l.address = t.Address
	}
	s := a.AcceptSender(l, amqp.SenderOptions{})
	if s == nil {
		return
	}
	n.mu.Lock()
	l.sender = s
	n.links = append(n.links, l)
	held := n.held
	n.held = nil
	n.mu.Unlock()
	for _, h := range held {
		n.respond(h)
	}
}

// respond sends an answer or holds it.
func (n *Node) respond(a answer) {
	for {
		s := n.choose(a)
		if s == nil {
			return
		}
		if n.answers.Add(1) > maxAnswers {
			n.answers.Add(-1)
			return
		}
		err := s.Send(a.message, amqp.SendOptions{Settled: s.SettledOnly()}, func(amqp.Outcome) { n.answers.Add(-1) })
		if err == nil {
			return
		}
		n.answers.Add(-1)
		n.forget(s) // it has gone, or does not read: try the next one
	}
}

// choose returns the link for an answer, or nil after holding it.
func (n *Node) choose(a answer) *amqp.Sender {
	n.mu.Lock()
	defer n.mu.Unlock()
	var best *link
	rank := -1
	for _, l := range n.links {
		r := 0
		if l.channel == a.channel {
			r = 1
			if a.replyTo != "" && l.address == a.replyTo {
				r = 2
			}
		}
		if r >= rank {
			best, rank = l, r
		}
	}
	if best != nil {
		return best.sender
	}
	if len(n.held) == maxHeld {
		n.held = append(n.held[:0], n.held[1:]...)
	}
	n.held = append(n.held, a)
	return nil
}

func (n *Node) forget(s *amqp.Sender) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, l := range n.links {
		if l.sender == s {
			n.links = append(n.links[:i], n.links[i+1:]...)
			return
		}
	}
}

// OnCredit implements amqp.SenderHandler.
func (l *link) OnCredit(*amqp.Sender, uint32, bool) {}

// OnDetach implements amqp.SenderHandler.
func (l *link) OnDetach(*wire.Error) {
	l.n.mu.Lock()
	l.n.attached--
	s := l.sender
	l.n.mu.Unlock()
	l.n.forget(s)
}

// requests is a link on which the client sends.
type requests struct {
	n       *Node
	channel uint16
}

// OnDetach implements amqp.ReceiverHandler.
func (q *requests) OnDetach(*wire.Error) {}

// OnDelivery implements amqp.ReceiverHandler.
func (q *requests) OnDelivery(d *amqp.Delivery) {
	m, err := d.Message()
	if err != nil {
		m = nil
	}
	q.n.handle(&Request{Message: m, n: q.n, d: d, channel: q.channel})
}

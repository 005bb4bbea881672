// Package cbs serves claims-based security over AMQP: the node $cbs, to which a
// client sends tokens after the connection is open, and from which it receives
// an answer for each.
//
// A [Node] belongs to one connection. The handler of the connection hands it
// every link whose address [Is] one of the node's:
//
//	func (h *handler) OnAttach(a *amqp.Attach) {
//		if cbs.Is(a.Address()) {
//			h.cbs.Attach(a)
//			return
//		}
//		...
//	}
//
// Clients differ in how they number requests and name the link for the answer.
// The answer carries the request's message-id, with its type, as correlation-id
// and goes to the first of these that there is: the link of the same session
// with the target address that the request names in reply-to, the newest link
// of the session, the newest of the connection. If there is none it waits for
// one.
package cbs

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// Status codes of answers.
const (
	OK           = 200
	BadRequest   = 400 // malformed request or token, unknown type
	Unauthorized = 401 // the token does not hold
	Forbidden    = 403
	NotFound     = 404 // nobody knows the identity
	Internal     = 500
	Unavailable  = 503 // try again later
)

// maxHeld is how many answers wait for a link; the oldest is dropped for one
// more.
const maxHeld = 16

// Is tells whether an address is that of the node: $cbs, with or without a
// slash or a whole URI before it.
func Is(address string) bool {
	if i := strings.Index(address, "://"); i >= 0 {
		address = address[i+3:]
		i = strings.IndexByte(address, '/')
		if i < 0 {
			return false
		}
		address = address[i:]
	}
	return strings.EqualFold(strings.Trim(address, "/"), "$cbs")
}

// Token is a secret. It prints as stars.
type Token string

// String returns stars.
func (Token) String() string { return "***" }

// GoString returns stars.
func (Token) GoString() string { return "***" }

// Request is a token that a client wants to be known by. It must be answered
// once, now or later, by Respond.
type Request struct {
	// Type is the kind of token, such as servicebus.windows.net:sastoken.
	Type string
	// Name is the audience as the client states it; never empty.
	Name string
	// Token is the token; never empty.
	Token Token

	n    *Node
	d    *amqp.Delivery
	ch   uint16
	id   wire.Value
	to   string
	done atomic.Bool
}

// Respond answers the request with a status code and a description for people.
// Only the first answer counts. Any goroutine may call it.
func (r *Request) Respond(code int, description string) {
	if !r.done.CompareAndSwap(false, true) {
		return
	}
	if description == "" {
		description = "none"
	}
	m := &wire.Message{
		Properties: &wire.Properties{CorrelationID: r.id, To: r.to},
		ApplicationProperties: wire.Map{}.
			With("status-code", wire.Int(int32(code))).
			With("status-description", wire.String(description)),
		Value: wire.Some(wire.Value{}),
	}
	r.d.Accept()
	r.n.respond(answer{r.ch, r.to, m})
}

// Node is the node $cbs of one connection.
type Node struct {
	verify func(*Request)

	mu    sync.Mutex
	links []*link // on which the client receives, oldest first
	held  []answer
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

// New returns a node that hands requests to verify, which runs on the goroutine
// of the connection and must not block; it may answer later.
func New(verify func(*Request)) *Node { return &Node{verify: verify} }

// Attach accepts a link of the node.
func (n *Node) Attach(a *amqp.Attach) {
	if a.ClientSends() {
		a.AcceptReceiver(&requests{n, a.Channel()}, amqp.ReceiverOptions{Window: 100})
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
		if s == nil || s.Send(a.message, amqp.SendOptions{Settled: s.SettledOnly()}, nil) == nil {
			return
		}
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
	r := &Request{n: q.n, d: d, ch: q.channel}
	m, err := d.Message()
	if err != nil {
		r.Respond(BadRequest, "malformed message")
		return
	}
	if m.Properties != nil {
		r.id, r.to = m.Properties.MessageID, m.Properties.ReplyTo
	}
	p := m.ApplicationProperties
	r.Type, r.Name = p.Text("type"), p.Text("name")
	token, ok := m.Body()
	r.Token = Token(token)
	switch {
	case !strings.EqualFold(p.Text("operation"), "put-token"):
		r.Respond(BadRequest, "the operation must be put-token")
	case r.Name == "":
		r.Respond(BadRequest, "the name is missing")
	case !ok || len(token) == 0:
		r.Respond(BadRequest, "the token is missing")
	default:
		q.n.verify(r)
	}
}

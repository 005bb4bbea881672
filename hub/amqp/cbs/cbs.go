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
// Which link an answer takes says package rpc.
package cbs

import (
	"strings"

	"github.com/breakwater-iot/breakwater/hub/amqp"
	"github.com/breakwater-iot/breakwater/hub/amqp/rpc"
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

	r *rpc.Request
}

// Respond answers the request with a status code and a description for people.
// Only the first answer counts. Any goroutine may call it.
func (r *Request) Respond(code int, description string) {
	if description == "" {
		description = "none"
	}
	r.r.Respond(&wire.Message{
		ApplicationProperties: wire.Map{}.
			With("status-code", wire.Int(int32(code))).
			With("status-description", wire.String(description)),
		Value: wire.Some(wire.Value{}),
	})
}

// Node is the node $cbs of one connection.
type Node struct{ n *rpc.Node }

// New returns a node that hands requests to verify, which runs on the goroutine
// of the connection and must not block; it may answer later.
func New(verify func(*Request)) *Node {
	return &Node{rpc.New(func(r *rpc.Request) { request(r, verify) })}
}

// Attach accepts a link of the node.
func (n *Node) Attach(a *amqp.Attach) { n.n.Attach(a) }

func request(asked *rpc.Request, verify func(*Request)) {
	r := &Request{r: asked}
	if asked.Message == nil {
		r.Respond(BadRequest, "malformed message")
		return
	}
	p := asked.Message.ApplicationProperties
	r.Type, r.Name = p.Text("type"), p.Text("name")
	token, ok := asked.Message.Body()
	r.Token = Token(token)
	switch {
	case !strings.EqualFold(p.Text("operation"), "put-token"):
		r.Respond(BadRequest, "the operation must be put-token")
	case r.Name == "":
		r.Respond(BadRequest, "the name is missing")
	case !ok || len(token) == 0:
		r.Respond(BadRequest, "the token is missing")
	default:
		verify(r)
	}
}

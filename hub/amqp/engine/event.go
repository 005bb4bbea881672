package engine

import "github.com/breakwater-iot/breakwater/hub/amqp/wire"

// EventKind says what has happened.
type EventKind uint8

// The events, with the fields of Event that they fill and the answer that they
// want.
const (
	// EventSASL: the client has chosen a mechanism (SASL). Wants SASLOutcome or
	// SASLChallenge.
	EventSASL EventKind = iota + 1
	// EventSASLResponse: the answer to a challenge (Response). Wants the same.
	EventSASLResponse
	// EventOpen: the client opens the connection (Open). Wants AcceptOpen, or
	// Close with an error.
	EventOpen
	// EventBegin: a session has begun (Session).
	EventBegin
	// EventEnd: a session is over (Session, Err). Its links have been detached
	// before.
	EventEnd
	// EventAttach: the client attaches a link (Link). Wants AcceptAttach or
	// RefuseAttach.
	EventAttach
	// EventDetach: a link is gone, whoever did it (Link, Err). Comes once for
	// each EventAttach that was not refused.
	EventDetach
	// EventDelivery: a message has come (Delivery). Wants Settle, also when the
	// sender has settled it.
	EventDelivery
	// EventCredit: the client's credit has changed (Link), or it wants a drain,
	// which wants Drained.
	EventCredit
	// EventSettled: the fate of a message that was sent (Outgoing, State). When
	// Outgoing.Unconfirmed, the client waits for Confirm.
	EventSettled
	// EventLost: a message was not settled when its link went (Outgoing).
	EventLost
	// EventClosed: the connection is over (Err). The last event.
	EventClosed
)

// Event is one thing that has happened.
type Event struct {
	Kind     EventKind
	Session  *Session
	Link     *Link
	Delivery *Delivery
	Outgoing *Outgoing
	State    wire.State
	Err      *wire.Error
	Open     *wire.Open
	SASL     *wire.SASLInit
	Response []byte
}

func (c *Conn) emit(e Event) { c.events = append(c.events, e) }

// Next takes the oldest event.
func (c *Conn) Next() (Event, bool) {
	if c.taken == len(c.events) {
		c.events, c.taken = c.events[:0], 0
		if cap(c.events) > 256 {
			c.events = nil // what a burst has left
		}
		return Event{}, false
	}
	e := c.events[c.taken]
	c.events[c.taken] = Event{}
	c.taken++
	return e, true
}

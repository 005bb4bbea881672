package engine

import (
	"slices"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// Session is one session of a connection.
type Session struct {
	c             *Conn
	local, remote uint16
	ending        bool // our end is sent, the client's is awaited
	over          bool
	touched       bool // is in c.touched

	nextIncoming uint32 // transfer id that the client uses next
	inWindow     uint32 // frames that the client may still send
	nextOutgoing uint32 // transfer id that we use next
	outWindow    uint32 // frames that we may still send
	nextDelivery uint32

	handles   map[uint32]*Link // by the client's handle
	locals    []*Link          // by our handle; nil: free
	names     map[linkName]*Link
	handleMax uint32          // the client's
	used      uint32          // handles from here on were never the client's
	late      map[uint32]bool // the client's handles whose next detach is of an earlier link

	incoming map[uint32]*Delivery // not settled
	outgoing map[uint32]*Outgoing // not settled
	run      run
}

type linkName struct {
	name string
	role wire.Role
}

// put sets m[k]. Most sessions are idle, and a client may have thousands: they have a
// map when there is something in it.
func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

// run is a range of dispositions that has not been written yet.
type run struct {
	open        bool
	role        wire.Role
	settled     bool
	code        wire.StateCode
	first, last uint32
}

// Channel returns the session's channel as the client knows it.
func (s *Session) Channel() uint16 { return s.remote }

// Links returns the links that are attached, in the order of their handles.
func (s *Session) Links() []*Link {
	var links []*Link
	for _, l := range s.locals {
		if l != nil && l.state == linkAttached {
			links = append(links, l)
		}
	}
	return links
}

func (c *Conn) begin(channel uint16, p *wire.Begin) {
	switch {
	case channel > c.o.ChannelMax:
		c.fail(wire.Errorf(wire.CondFramingError, "channel %d, allowed are %d", channel, c.o.ChannelMax))
		return
	case c.sessions[channel] != nil:
		c.fail(wire.Errorf(wire.CondNotAllowed, "channel %d is in use", channel))
		return
	case p.RemoteChannel.Set:
		c.fail(wire.Errorf(wire.CondNotAllowed, "begin answers a session that does not exist"))
		return
	case len(c.sessions) >= c.limit.sessions:
		c.fail(wire.Errorf(wire.CondResourceLimitExceeded, "more than %d sessions", c.limit.sessions))
		return
	}
	local := slices.Index(c.channels, nil)
	if local < 0 {
		local = len(c.channels)
		c.channels = append(c.channels, nil)
	}
	if local > int(c.client.ChannelMax) {
		c.fail(wire.Errorf(wire.CondResourceLimitExceeded, "no channel is free"))
		return
	}
	s := &Session{
		c: c, local: uint16(local), remote: channel,
		nextIncoming: p.NextOutgoingID, inWindow: c.o.IncomingWindow,
		nextOutgoing: c.o.FirstID, nextDelivery: c.o.FirstID, outWindow: p.IncomingWindow,
		handleMax: p.HandleMax,
	}
	c.channels[local], c.sessions[channel] = s, s
	c.append(s.local, &wire.Begin{
		RemoteChannel: wire.Some(channel), NextOutgoingID: s.nextOutgoing,
		IncomingWindow: c.o.IncomingWindow, OutgoingWindow: c.o.OutgoingWindow, HandleMax: c.o.HandleMax,
	})
	c.emit(Event{Kind: EventBegin, Session: s})
}

// frame handles a frame of the session.
func (s *Session) frame(p wire.Performative, payload []byte) {
	if end, ok := p.(*wire.End); ok {
		if !s.ending {
			s.flushRun()
			s.detachAll(end.Error)
			s.c.append(s.local, &wire.End{})
			s.c.emit(Event{Kind: EventEnd, Session: s, Err: end.Error})
		}
		s.free()
		return
	}
	if s.ending {
		return
	}
	switch p := p.(type) {
	case *wire.Attach:
		s.attach(p)
	case *wire.Flow:
		s.onFlow(p)
	case *wire.Transfer:
		s.onTransfer(p, payload)
	case *wire.Disposition:
		s.onDisposition(p)
	case *wire.Detach:
		s.onDetach(p)
	}
}

// End ends the session with an error or nil.
func (s *Session) End(err *wire.Error) {
	if s.ending || s.over || s.c.phase != phaseOpen {
		return
	}
	s.flushRun()
	s.detachAll(err)
	s.ending = true
	s.c.append(s.local, &wire.End{Error: err})
	s.c.emit(Event{Kind: EventEnd, Session: s, Err: err})
}

// EndSessions ends all sessions with an error or nil. Before Close it gives them a
// reason of their own, which is what some clients go by.
func (c *Conn) EndSessions(err *wire.Error) {
	for _, s := range c.channels {
		if s != nil {
			s.End(err)
		}
	}
}

func (s *Session) detachAll(err *wire.Error) {
	for _, l := range s.locals {
		if l != nil {
			l.gone(err)
			s.release(l)
		}
	}
}

func (s *Session) free() {
	s.over = true
	s.c.channels[s.local] = nil
	delete(s.c.sessions, s.remote)
}

// endAll ends all sessions in events, not on the wire.
func (c *Conn) endAll(err *wire.Error) {
	for _, s := range c.channels {
		if s == nil {
			continue
		}
		s.flushRun()
		s.detachAll(err)
		if !s.ending {
			c.emit(Event{Kind: EventEnd, Session: s, Err: err})
		}
		s.free()
	}
}

// touch puts the session on Flush's list.
func (s *Session) touch() {
	if !s.touched {
		s.touched = true
		s.c.touched = append(s.c.touched, s)
	}
}

// onFlow handles a flow frame: first the session's part, then the link's.
func (s *Session) onFlow(p *wire.Flow) {
	blocked := s.outWindow == 0
	next := p.NextIncomingID.Or(s.c.o.FirstID)
	if window := int32(next + p.IncomingWindow - s.nextOutgoing); p.IncomingWindow > 1<<31-1 {
		s.outWindow = 1<<31 - 1
	} else {
		s.outWindow = uint32(max(window, 0))
	}
	if blocked && s.outWindow > 0 {
		for _, l := range s.locals {
			if l != nil {
				l.wake()
			}
		}
	}
	if !p.Handle.Set {
		if p.Echo {
			s.sendFlow(nil, false)
		}
		return
	}
	l := s.handles[p.Handle.V]
	if l == nil {
		// go-amqp may give credit on a link that it has just detached.
		if p.Handle.V >= s.used {
			s.End(wire.Errorf(wire.CondUnattachedHandle, "flow for handle %d", p.Handle.V))
		}
		return
	}
	l.onFlow(p)
}

// sendFlow writes a flow frame, with the part of l unless l is nil.
func (s *Session) sendFlow(l *Link, drain bool) {
	f := &s.c.flow
	*f = wire.Flow{
		NextIncomingID: wire.Some(s.nextIncoming), IncomingWindow: s.c.o.IncomingWindow,
		NextOutgoingID: s.nextOutgoing, OutgoingWindow: s.c.o.OutgoingWindow,
	}
	s.inWindow = s.c.o.IncomingWindow
	if l != nil {
		f.Handle = wire.Some(l.local)
		f.DeliveryCount = wire.Some(l.deliveryCount)
		f.LinkCredit = wire.Some(l.credit)
		if l.role == wire.RoleSender {
			f.Available = wire.Some(uint32(l.Queued()))
			f.Drain = drain
		}
	}
	s.c.append(s.local, f)
}

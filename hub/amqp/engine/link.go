package engine

import (
	"errors"
	"slices"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

type linkState uint8

const (
	linkAttaching linkState = iota // the application decides
	linkAttached
	linkDetaching // our detach is sent, the client's is awaited
	linkGone
)

// ErrDynamic is returned by AcceptAttach for a client that wants a node made,
// when the reply does not name one; the link is refused.
var ErrDynamic = errors.New("amqp: no address for a dynamic node")

// ErrLinkGone is returned for links that are not attached.
var ErrLinkGone = errors.New("amqp: link is not attached")

// Link is one link of a session. Its role is ours: the server's.
type Link struct {
	// Data belongs to the application.
	Data any

	s             *Session
	c             *Conn
	role          wire.Role
	state         linkState
	local, remote uint32
	attach        *wire.Attach
	cost          int  // bytes that attach takes
	told          bool // EventDetach was emitted or is not owed

	deliveryCount uint32
	credit        uint32

	// As receiver.
	maxMessage  uint64
	window      uint32    // credit that we want the client to have
	outstanding uint32    // deliveries that the application has not settled
	partial     *Delivery // the message that is coming in
	twoStep     bool      // the client settles after us
	creditDue   bool      // is in c.credits

	// As sender.
	queue     []*Outgoing // not sent, or in part
	head      int         // first one of queue
	unsettled int
	begun     uint64 // messages sent, at least in part
	drain     bool   // the client wants its credit used up
	drainable bool   // the application has nothing more to send
	isReady   bool   // is in c.ready
	isDrain   bool   // is in c.drains
	tag       uint32
}

// Role returns the server's role on the link.
func (l *Link) Role() wire.Role { return l.role }

// Session returns the session of the link.
func (l *Link) Session() *Session { return l.s }

// Attach returns the client's attach, which must not be changed.
func (l *Link) Attach() *wire.Attach { return l.attach }

// Attached tells whether the link is attached.
func (l *Link) Attached() bool { return l.state == linkAttached }

// spareLinks is how many refused links may wait for the client's detach when
// there are as many as there may be.
const spareLinks = 64

// attach handles the client's attach.
func (s *Session) attach(p *wire.Attach) {
	c := s.c
	if p.Handle > c.o.HandleMax {
		c.fail(wire.Errorf(wire.CondFramingError, "handle %d, allowed are %d", p.Handle, c.o.HandleMax))
		return
	}
	if old := s.handles[p.Handle]; old != nil && !s.reuse(old) {
		s.End(wire.Errorf(wire.CondHandleInUse, "handle %d", p.Handle))
		return
	}
	local := slices.Index(s.locals, nil)
	if local < 0 {
		local = len(s.locals)
	}
	if uint32(local) > s.handleMax {
		s.End(wire.Errorf(wire.CondResourceLimitExceeded, "no handle is free"))
		return
	}
	if c.links >= c.limit.links+spareLinks {
		c.fail(wire.Errorf(wire.CondResourceLimitExceeded, "more than %d links", c.limit.links))
		return
	}
	l := &Link{s: s, c: c, role: !p.Role, local: uint32(local), remote: p.Handle, attach: p, cost: c.dec.Cost()}
	if l.role == wire.RoleReceiver {
		l.deliveryCount = p.InitialDeliveryCount.Or(0)
	}
	var refusal *wire.Error
	key := linkName{p.Name, l.role}
	old := s.names[key]
	switch {
	case c.links >= c.limit.links:
		refusal = wire.Errorf(wire.CondResourceLimitExceeded, "more than %d links", c.limit.links)
	case c.linkCost+l.cost > c.limit.linkBytes:
		refusal = wire.Errorf(wire.CondResourceLimitExceeded, "too much about links")
	case p.Target != nil && p.Target.Coordinator:
		refusal = wire.Errorf(wire.CondNotImplemented, "transactions")
	case old != nil && c.o.Steal != nil && !c.o.Steal(old):
		refusal = wire.Errorf(wire.CondResourceLocked, "link %q is attached", p.Name)
	case old != nil:
		old.Detach(wire.Errorf(wire.CondStolen, "attached again"))
	}
	if local == len(s.locals) {
		s.locals = append(s.locals, nil)
	}
	put(&s.handles, p.Handle, l)
	s.locals[local] = l
	s.used = max(s.used, p.Handle+1)
	c.links++
	c.linkCost += l.cost
	if refusal != nil {
		l.refuse(refusal)
		return
	}
	put(&s.names, key, l)
	c.emit(Event{Kind: EventAttach, Session: s, Link: l})
}

// reuse frees the handle of a link that we have detached and the client has not
// yet. go-amqp frees the handle when our detach comes and may attach another link
// with it before it answers; that answer is not about the new link then. It tells
// whether the handle is free.
func (s *Session) reuse(old *Link) bool {
	if old.state != linkDetaching || s.late[old.remote] {
		return false
	}
	if s.late == nil {
		s.late = make(map[uint32]bool)
	}
	s.late[old.remote] = true
	s.release(old)
	return true
}

// AttachReply is how a link is accepted. Nil Source and Target echo those of
// the client.
type AttachReply struct {
	Source              *wire.Source
	Target              *wire.Target
	Properties          wire.Map
	OfferedCapabilities []string
	// MaxMessageSize is the largest message from the client; 0: that of the
	// Options. For a sending link it is announced only.
	MaxMessageSize uint64
	// Window is how many deliveries a receiving link may have with the
	// application or on the way.
	Window uint32
	// TwoStep makes a receiving link whose client asks for receiver-settles-second
	// wait for the client to settle after an outcome, as the standard has it.
	// Otherwise outcomes are settled at once, which all clients understand;
	// uAMQP asks for the mode, never settles, and hangs when made to.
	TwoStep bool
}

// AcceptAttach attaches the link of an EventAttach. It returns ErrLinkGone
// when the link has gone meanwhile, and ErrDynamic.
func (l *Link) AcceptAttach(r AttachReply) error {
	if l.state != linkAttaching {
		return ErrLinkGone
	}
	a := l.attach
	reply := &wire.Attach{
		Name: a.Name, Handle: l.local, Role: l.role, SenderMode: a.SenderMode, ReceiverMode: a.ReceiverMode,
		Source: a.Source, Target: a.Target, Properties: r.Properties, OfferedCapabilities: r.OfferedCapabilities,
		MaxMessageSize: r.MaxMessageSize,
	}
	if r.Source != nil {
		reply.Source = r.Source
	}
	if r.Target != nil {
		reply.Target = r.Target
	}
	if l.role == wire.RoleSender && reply.Source != nil && reply.Source.Dynamic && reply.Source.Address == "" ||
		l.role == wire.RoleReceiver && reply.Target != nil && reply.Target.Dynamic && reply.Target.Address == "" {
		l.refuse(wire.Errorf(wire.CondNotImplemented, "dynamic nodes"))
		return ErrDynamic
	}
	if reply.MaxMessageSize == 0 {
		reply.MaxMessageSize = l.c.o.MaxMessageSize
	}
	l.maxMessage = reply.MaxMessageSize
	l.twoStep = r.TwoStep && a.ReceiverMode == wire.ReceiverSecond
	if l.role == wire.RoleSender {
		reply.InitialDeliveryCount = wire.Some(uint32(0))
		if a.MaxMessageSize > 0 {
			reply.MaxMessageSize = min(reply.MaxMessageSize, a.MaxMessageSize)
		}
	}
	l.state = linkAttached
	l.c.append(l.s.local, reply)
	if l.role == wire.RoleReceiver {
		l.SetWindow(r.Window)
	} else if l.credit > 0 || l.drain {
		l.c.emit(Event{Kind: EventCredit, Session: l.s, Link: l})
	}
	return nil
}

// RefuseAttach refuses the link of an EventAttach with an error: the client
// sees it attached without the terminus it asked for, and detached at once.
func (l *Link) RefuseAttach(err *wire.Error) error {
	if l.state != linkAttaching {
		return ErrLinkGone
	}
	l.told = true
	l.refuse(err)
	return nil
}

func (l *Link) refuse(err *wire.Error) {
	l.told = true
	l.refusedAttach()
	l.sendDetach(true, err)
	l.c.linkCost -= l.cost // the client may be slow to detach; keep nothing of it
	l.attach, l.cost = &wire.Attach{}, 0
}

// refusedAttach writes the attach that must precede the detach of a link that
// does not come to be.
func (l *Link) refusedAttach() {
	a := l.attach
	reply := &wire.Attach{Name: a.Name, Handle: l.local, Role: l.role, SenderMode: a.SenderMode, ReceiverMode: a.ReceiverMode}
	if l.role == wire.RoleSender {
		reply.InitialDeliveryCount = wire.Some(uint32(0))
		reply.Target = a.Target
	} else {
		reply.Source = a.Source
	}
	l.c.append(l.s.local, reply)
}

func (l *Link) sendDetach(closed bool, err *wire.Error) {
	l.s.flushRun()
	l.c.append(l.s.local, &wire.Detach{Handle: l.local, Closed: closed, Error: err})
	l.gone(err)
	l.state = linkDetaching
}

// Detach closes the link with an error or nil. Deliveries not settled are lost
// on both sides.
func (l *Link) Detach(err *wire.Error) {
	switch l.state {
	case linkAttaching:
		l.refusedAttach()
	case linkAttached:
	default:
		return
	}
	l.sendDetach(true, err)
}

func (s *Session) onDetach(p *wire.Detach) {
	if s.late[p.Handle] { // of the link that had the handle before
		delete(s.late, p.Handle)
		return
	}
	l := s.handles[p.Handle]
	if l == nil {
		s.End(wire.Errorf(wire.CondUnattachedHandle, "detach of handle %d", p.Handle))
		return
	}
	if l.state != linkDetaching {
		if l.state == linkAttaching {
			l.refusedAttach()
		}
		s.flushRun()
		s.c.append(s.local, &wire.Detach{Handle: l.local, Closed: p.Closed})
		l.gone(p.Error)
	}
	s.release(l)
}

// gone drops all that the link holds and tells the application.
func (l *Link) gone(err *wire.Error) {
	if l.state == linkGone || l.state == linkDetaching {
		return
	}
	l.state = linkGone
	if key := (linkName{l.attach.Name, l.role}); l.s.names[key] == l {
		delete(l.s.names, key)
	}
	l.dropIncoming()
	l.dropOutgoing()
	if !l.told {
		l.told = true
		l.c.emit(Event{Kind: EventDetach, Session: l.s, Link: l, Err: err})
	}
}

// release frees the handles.
func (s *Session) release(l *Link) {
	if s.locals[l.local] != l {
		return
	}
	l.state = linkGone
	s.locals[l.local] = nil
	delete(s.handles, l.remote)
	s.c.links--
	s.c.linkCost -= l.cost
	l.cost = 0
}

// onFlow handles the link's part of a flow.
func (l *Link) onFlow(p *wire.Flow) {
	if l.state == linkDetaching {
		return
	}
	if l.role == wire.RoleSender {
		l.onCredit(p)
	} else if p.DeliveryCount.Set {
		if used := p.DeliveryCount.V - l.deliveryCount; used <= l.credit {
			l.deliveryCount += used
			l.credit -= used
			l.refill()
		}
	}
	if p.Echo && l.state == linkAttached {
		l.s.sendFlow(l, false)
	}
}

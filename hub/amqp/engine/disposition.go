package engine

import (
	"cmp"
	"slices"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// disposition writes the state of one delivery, or adds it to the range that
// is being gathered.
func (s *Session) disposition(role wire.Role, id uint32, settled bool, state *wire.State) {
	plain := state.Code == wire.StateAccepted || state.Code == wire.StateReleased || state.Code == wire.StateNone
	r := &s.run
	if plain && r.open && r.role == role && r.settled == settled && r.code == state.Code && id == r.last+1 {
		r.last = id
		return
	}
	s.flushRun()
	if plain {
		*r = run{open: true, role: role, settled: settled, code: state.Code, first: id, last: id}
		s.touch()
		return
	}
	s.c.dispo = wire.Disposition{Role: role, First: id, Settled: settled, State: *state}
	s.c.append(s.local, &s.c.dispo)
}

// flushRun writes the range that was gathered.
func (s *Session) flushRun() {
	r := &s.run
	if !r.open {
		return
	}
	r.open = false
	d := &s.c.dispo
	*d = wire.Disposition{Role: r.role, First: r.first, Settled: r.settled, State: wire.State{Code: r.code}}
	if r.last != r.first {
		d.Last = wire.Some(r.last)
	}
	s.c.append(s.local, d)
}

// onDisposition handles the client's disposition.
func (s *Session) onDisposition(p *wire.Disposition) {
	last := p.Last.Or(p.First)
	if int32(last-p.First) < 0 {
		s.End(wire.Errorf(wire.CondInvalidField, "disposition of %d to %d", p.First, last))
		return
	}
	if !p.Settled && !p.State.Terminal() {
		return // says how far a delivery has come, which nobody wants to know
	}
	if p.Role == wire.RoleReceiver {
		s.c.ids = within(s.c.ids[:0], s.outgoing, p.First, last)
		for _, id := range s.c.ids {
			s.outgoing[id].onDisposition(p)
		}
		return
	}
	if !p.Settled {
		return
	}
	s.c.ids = within(s.c.ids[:0], s.incoming, p.First, last)
	for _, id := range s.c.ids {
		d := s.incoming[id]
		delete(s.incoming, id)
		d.settled = true
		d.finish()
	}
}

// within appends the ids from first to last that m has, in order. It looks into
// the range or through the map, whichever is smaller.
func within[T any](ids []uint32, m map[uint32]T, first, last uint32) []uint32 {
	if n := last - first; uint64(n) <= uint64(len(m)) {
		for i := uint32(0); i <= n; i++ {
			if _, ok := m[first+i]; ok {
				ids = append(ids, first+i)
			}
		}
		return ids
	}
	for id := range m {
		if id-first <= last-first {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uint32) int { return cmp.Compare(a-first, b-first) })
	return ids
}

// onDisposition handles the receiver's word about a message.
func (o *Outgoing) onDisposition(p *wire.Disposition) {
	if !p.Settled && (!p.State.Terminal() || o.unconfirmed) {
		return
	}
	l, told := o.l, o.unconfirmed
	if o.begun && o.off < len(o.Payload) && p.Settled {
		o.abandon()
	}
	o.unconfirmed = !p.Settled
	if p.Settled {
		o.remove()
	}
	if told {
		return
	}
	state := p.State
	if !state.Terminal() { // settled without an outcome
		state = wire.Released()
		if src := l.attach.Source; src != nil && src.DefaultOutcome.Terminal() {
			state = src.DefaultOutcome
		}
	}
	l.c.emit(Event{Kind: EventSettled, Session: l.s, Link: l, Outgoing: o, State: state})
}

// abandon ends a message of which the receiver wants no more.
func (o *Outgoing) abandon() {
	l := o.l
	l.c.append(l.s.local, &wire.Transfer{Handle: l.local, Aborted: true})
	l.s.nextOutgoing++
	if l.s.outWindow > 0 {
		l.s.outWindow--
	}
	l.sent(o)
}

func (o *Outgoing) remove() {
	if l := o.l; l.s.outgoing[o.id] == o {
		delete(l.s.outgoing, o.id)
		l.unsettled--
		l.wake()
	}
}

// Confirm settles a message whose receiver waits for it, with the state that
// the receiver is to see: accepted when its outcome has been applied, whatever
// it was. Otherwise it does nothing.
func (o *Outgoing) Confirm(state wire.State) {
	if !o.unconfirmed {
		return
	}
	o.unconfirmed = false
	if o.l.state != linkAttached {
		return
	}
	o.l.s.disposition(wire.RoleSender, o.id, true, &state)
	o.remove()
}

// Flush writes what has been gathered: dispositions, credit, session windows,
// transfers and answers to drains. Call it after every batch of other calls.
func (c *Conn) Flush() {
	for _, s := range c.touched {
		s.touched = false
		if s.over || s.ending {
			continue
		}
		s.flushRun()
		if s.inWindow <= c.o.IncomingWindow/2 {
			s.sendFlow(nil, false)
		}
	}
	c.touched = c.touched[:0]
	for _, l := range c.credits {
		l.creditDue = false
		if n := l.missing(); n > 0 && l.state == linkAttached {
			l.credit += n
			l.s.sendFlow(l, false)
		}
	}
	c.credits = c.credits[:0]
	c.pump()
	c.drains = slices.DeleteFunc(c.drains, func(l *Link) bool {
		l.answerDrain()
		l.isDrain = l.drain && l.drainable && l.state == linkAttached
		return !l.isDrain
	})
}

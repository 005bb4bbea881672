package wire

import "fmt"

// Error is an AMQP error: a condition (a symbol such as amqp:not-found), a
// description for people, and more for programs. It is a Go error.
type Error struct {
	Condition   string
	Description string
	Info        Map
}

// Error returns condition and description.
func (e *Error) Error() string {
	if e.Description == "" {
		return e.Condition
	}
	return e.Condition + ": " + e.Description
}

// Errorf returns an Error with a formatted description.
func Errorf(condition, format string, args ...any) *Error {
	return &Error{Condition: condition, Description: fmt.Sprintf(format, args...)}
}

// The conditions of the standard.
const (
	CondInternalError         = "amqp:internal-error"
	CondNotFound              = "amqp:not-found"
	CondUnauthorizedAccess    = "amqp:unauthorized-access"
	CondDecodeError           = "amqp:decode-error"
	CondResourceLimitExceeded = "amqp:resource-limit-exceeded"
	CondNotAllowed            = "amqp:not-allowed"
	CondInvalidField          = "amqp:invalid-field"
	CondNotImplemented        = "amqp:not-implemented"
	CondResourceLocked        = "amqp:resource-locked"
	CondPreconditionFailed    = "amqp:precondition-failed"
	CondResourceDeleted       = "amqp:resource-deleted"
	CondIllegalState          = "amqp:illegal-state"
	CondFrameSizeTooSmall     = "amqp:frame-size-too-small"
	CondConnectionForced      = "amqp:connection:forced"
	CondFramingError          = "amqp:connection:framing-error"
	CondConnectionRedirect    = "amqp:connection:redirect"
	CondWindowViolation       = "amqp:session:window-violation"
	CondErrantLink            = "amqp:session:errant-link"
	CondHandleInUse           = "amqp:session:handle-in-use"
	CondUnattachedHandle      = "amqp:session:unattached-handle"
	CondDetachForced          = "amqp:link:detach-forced"
	CondTransferLimitExceeded = "amqp:link:transfer-limit-exceeded"
	CondMessageSizeExceeded   = "amqp:link:message-size-exceeded"
	CondLinkRedirect          = "amqp:link:redirect"
	CondStolen                = "amqp:link:stolen"
)

// StateCode says which delivery state a State is: its descriptor.
type StateCode uint8

// The delivery states. All but StateReceived are terminal, which means that
// they are outcomes. StateOther stands for those of transactions, which this
// package does not know.
const (
	StateNone     StateCode = 0
	StateReceived StateCode = 0x23
	StateAccepted StateCode = 0x24
	StateRejected StateCode = 0x25
	StateReleased StateCode = 0x26
	StateModified StateCode = 0x27
	StateOther    StateCode = 0xff
)

// String returns the name of the state.
func (c StateCode) String() string {
	switch c {
	case StateNone:
		return "none"
	case StateReceived:
		return "received"
	case StateAccepted:
		return "accepted"
	case StateRejected:
		return "rejected"
	case StateReleased:
		return "released"
	case StateModified:
		return "modified"
	}
	return "other"
}

// State is the state of a delivery. The zero State is the absent one.
type State struct {
	Code StateCode

	Error             *Error // rejected: why
	DeliveryFailed    bool   // modified: counts as a failed attempt
	UndeliverableHere bool   // modified: not to this receiver again
	Annotations       Map    // modified: to be merged into the message's
	SectionNumber     uint32 // received
	SectionOffset     uint64 // received
}

// Terminal tells whether the state is an outcome.
func (s *State) Terminal() bool { return s.Code != StateNone && s.Code != StateReceived }

// Accepted returns the outcome accepted.
func Accepted() State { return State{Code: StateAccepted} }

// Rejected returns the outcome rejected, with the reason or nil.
func Rejected(err *Error) State { return State{Code: StateRejected, Error: err} }

// Released returns the outcome released.
func Released() State { return State{Code: StateReleased} }

// Modified returns the outcome modified.
func Modified(deliveryFailed, undeliverableHere bool) State {
	return State{Code: StateModified, DeliveryFailed: deliveryFailed, UndeliverableHere: undeliverableHere}
}

func appendError(b []byte, e *Error) []byte {
	w := beginList(b, codeError)
	w.symbol(e.Condition)
	w.text(e.Description)
	w.mapping(e.Info)
	return w.finish()
}

func (r *reader) readError() *Error {
	if c := r.descriptor(); c != codeError {
		r.fail("descriptor 0x%x instead of an error", c)
		return nil
	}
	f := r.list()
	e := &Error{Condition: f.text(), Description: f.text(), Info: f.mapping()}
	f.close()
	return e
}

func appendState(b []byte, s *State) []byte {
	w := beginList(b, byte(s.Code))
	switch s.Code {
	case StateReceived:
		w.u32(s.SectionNumber)
		w.wrote(appendUlong(w.b, s.SectionOffset))
	case StateRejected:
		w.err(s.Error)
	case StateModified:
		w.bool(s.DeliveryFailed)
		w.bool(s.UndeliverableHere)
		w.mapping(s.Annotations)
	}
	return w.finish()
}

func (r *reader) readState(s *State) {
	code := r.descriptor()
	*s = State{Code: StateOther}
	if code >= uint64(StateReceived) && code <= uint64(StateModified) {
		s.Code = StateCode(code)
	}
	f := r.list()
	switch s.Code {
	case StateReceived:
		s.SectionNumber = f.u32(0)
		s.SectionOffset = f.u64()
	case StateRejected:
		s.Error = f.err()
	case StateModified:
		s.DeliveryFailed = f.bool()
		s.UndeliverableHere = f.bool()
		s.Annotations = f.mapping()
	}
	f.close()
}

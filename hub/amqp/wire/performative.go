package wire

// Performative is the body of a frame: *Open, *Begin, *Attach, *Flow,
// *Transfer, *Disposition, *Detach, *End, *Close, or one of the SASL frames.
type Performative interface {
	appendTo(b []byte) []byte
	readFrom(r *reader)
}

// Role says who a performative speaks for: the sender of a link or the
// receiver.
type Role bool

// The roles.
const (
	RoleSender   Role = false
	RoleReceiver Role = true
)

// String returns "sender" or "receiver".
func (r Role) String() string {
	if r == RoleReceiver {
		return "receiver"
	}
	return "sender"
}

// The modes in which a sender settles.
const (
	SenderUnsettled uint8 = 0
	SenderSettled   uint8 = 1
	SenderMixed     uint8 = 2
)

// The modes in which a receiver settles: at once, or after the sender has.
const (
	ReceiverFirst  uint8 = 0
	ReceiverSecond uint8 = 1
)

// Open opens a connection. Decoding fills in the defaults of fields that are
// absent.
type Open struct {
	ContainerID         string
	Hostname            string
	MaxFrameSize        uint32 // default 4294967295
	ChannelMax          uint16 // default 65535
	IdleTimeout         uint32 // milliseconds; 0: none
	OutgoingLocales     []string
	IncomingLocales     []string
	OfferedCapabilities []string
	DesiredCapabilities []string
	Properties          Map
}

func (p *Open) appendTo(b []byte) []byte {
	w := beginList(b, codeOpen)
	w.wrote(appendVar(w.b, 0xa1, p.ContainerID))
	w.text(p.Hostname)
	w.u32Default(p.MaxFrameSize, 0xffffffff)
	if p.ChannelMax == 0xffff {
		w.null()
	} else {
		w.u16(p.ChannelMax)
	}
	w.u32Default(p.IdleTimeout, 0)
	w.symbols(p.OutgoingLocales)
	w.symbols(p.IncomingLocales)
	w.symbols(p.OfferedCapabilities)
	w.symbols(p.DesiredCapabilities)
	w.mapping(p.Properties)
	return w.finish()
}

func (p *Open) readFrom(r *reader) {
	f := r.list()
	p.ContainerID, p.Hostname = f.text(), f.text()
	p.MaxFrameSize, p.ChannelMax, p.IdleTimeout = f.u32(0xffffffff), f.u16(0xffff), f.u32(0)
	p.OutgoingLocales, p.IncomingLocales = f.symbols(), f.symbols()
	p.OfferedCapabilities, p.DesiredCapabilities = f.symbols(), f.symbols()
	p.Properties = f.mapping()
	f.close()
}

// Begin begins a session.
type Begin struct {
	RemoteChannel       Opt[uint16]
	NextOutgoingID      uint32
	IncomingWindow      uint32
	OutgoingWindow      uint32
	HandleMax           uint32 // default 4294967295
	OfferedCapabilities []string
	DesiredCapabilities []string
	Properties          Map
}

func (p *Begin) appendTo(b []byte) []byte {
	w := beginList(b, codeBegin)
	if p.RemoteChannel.Set {
		w.u16(p.RemoteChannel.V)
	} else {
		w.null()
	}
	w.u32(p.NextOutgoingID)
	w.u32(p.IncomingWindow)
	w.u32(p.OutgoingWindow)
	w.u32Default(p.HandleMax, 0xffffffff)
	w.symbols(p.OfferedCapabilities)
	w.symbols(p.DesiredCapabilities)
	w.mapping(p.Properties)
	return w.finish()
}

func (p *Begin) readFrom(r *reader) {
	f := r.list()
	p.RemoteChannel = f.optU16()
	p.NextOutgoingID = f.needU32("next-outgoing-id")
	p.IncomingWindow = f.needU32("incoming-window")
	p.OutgoingWindow = f.needU32("outgoing-window")
	p.HandleMax = f.u32(0xffffffff)
	p.OfferedCapabilities, p.DesiredCapabilities = f.symbols(), f.symbols()
	p.Properties = f.mapping()
	f.close()
}

// Attach attaches a link. A nil Source or Target is a null one.
type Attach struct {
	Name                 string
	Handle               uint32
	Role                 Role
	SenderMode           uint8 // default SenderMixed
	ReceiverMode         uint8
	Source               *Source
	Target               *Target
	Unsettled            Map
	IncompleteUnsettled  bool
	InitialDeliveryCount Opt[uint32]
	MaxMessageSize       uint64 // 0: no limit
	OfferedCapabilities  []string
	DesiredCapabilities  []string
	Properties           Map
}

func (p *Attach) appendTo(b []byte) []byte {
	w := beginList(b, codeAttach)
	w.wrote(appendVar(w.b, 0xa1, p.Name))
	w.u32(p.Handle)
	w.wrote(appendBool(w.b, bool(p.Role)))
	w.u8(p.SenderMode, SenderMixed)
	w.u8(p.ReceiverMode, ReceiverFirst)
	if p.Source == nil {
		w.null()
	} else {
		w.wrote(p.Source.appendTo(w.b))
	}
	if p.Target == nil {
		w.null()
	} else {
		w.wrote(p.Target.appendTo(w.b))
	}
	w.mapping(p.Unsettled)
	w.bool(p.IncompleteUnsettled)
	w.optU32(p.InitialDeliveryCount)
	w.u64(p.MaxMessageSize)
	w.symbols(p.OfferedCapabilities)
	w.symbols(p.DesiredCapabilities)
	w.mapping(p.Properties)
	return w.finish()
}

func (p *Attach) readFrom(r *reader) {
	f := r.list()
	p.Name = f.text()
	p.Handle = f.needU32("handle")
	p.Role = Role(f.bool())
	p.SenderMode, p.ReceiverMode = f.u8(SenderMixed), f.u8(ReceiverFirst)
	if p.SenderMode > SenderMixed || p.ReceiverMode > ReceiverSecond {
		f.fail("settle modes %d, %d", p.SenderMode, p.ReceiverMode)
	}
	p.Source = nil
	if f.present() {
		p.Source = new(Source)
		p.Source.readFrom(r)
	}
	p.Target = nil
	if f.present() {
		p.Target = new(Target)
		p.Target.readFrom(r)
	}
	p.Unsettled = f.mapping()
	p.IncompleteUnsettled = f.bool()
	p.InitialDeliveryCount = f.optU32()
	p.MaxMessageSize = f.u64()
	p.OfferedCapabilities, p.DesiredCapabilities = f.symbols(), f.symbols()
	p.Properties = f.mapping()
	f.close()
}

// Flow updates windows of a session and, with a Handle, the credit of a link.
type Flow struct {
	NextIncomingID Opt[uint32]
	IncomingWindow uint32
	NextOutgoingID uint32
	OutgoingWindow uint32
	Handle         Opt[uint32]
	DeliveryCount  Opt[uint32]
	LinkCredit     Opt[uint32]
	Available      Opt[uint32]
	Drain          bool
	Echo           bool
	Properties     Map
}

func (p *Flow) appendTo(b []byte) []byte {
	w := beginList(b, codeFlow)
	w.optU32(p.NextIncomingID)
	w.u32(p.IncomingWindow)
	w.u32(p.NextOutgoingID)
	w.u32(p.OutgoingWindow)
	w.optU32(p.Handle)
	w.optU32(p.DeliveryCount)
	w.optU32(p.LinkCredit)
	w.optU32(p.Available)
	w.bool(p.Drain)
	w.bool(p.Echo)
	w.mapping(p.Properties)
	return w.finish()
}

func (p *Flow) readFrom(r *reader) {
	f := r.list()
	p.NextIncomingID = f.optU32()
	p.IncomingWindow = f.needU32("incoming-window")
	p.NextOutgoingID = f.needU32("next-outgoing-id")
	p.OutgoingWindow = f.needU32("outgoing-window")
	p.Handle, p.DeliveryCount, p.LinkCredit, p.Available = f.optU32(), f.optU32(), f.optU32(), f.optU32()
	p.Drain, p.Echo = f.bool(), f.bool()
	p.Properties = f.mapping()
	f.close()
}

// Transfer carries a message or a part of one; the payload follows it in the
// frame. After decoding, DeliveryTag aliases the frame.
type Transfer struct {
	Handle        uint32
	DeliveryID    Opt[uint32]
	DeliveryTag   []byte
	MessageFormat Opt[uint32]
	Settled       Opt[bool]
	More          bool
	ReceiverMode  Opt[uint8]
	State         State
	Resume        bool
	Aborted       bool
	Batchable     bool
}

func (p *Transfer) appendTo(b []byte) []byte {
	w := beginList(b, codeTransfer)
	w.u32(p.Handle)
	w.optU32(p.DeliveryID)
	w.bytes(p.DeliveryTag)
	w.optU32(p.MessageFormat)
	if p.Settled.Set {
		w.wrote(appendBool(w.b, p.Settled.V))
	} else {
		w.null()
	}
	w.bool(p.More)
	if p.ReceiverMode.Set {
		w.u8(p.ReceiverMode.V, 0xff)
	} else {
		w.null()
	}
	w.state(&p.State)
	w.bool(p.Resume)
	w.bool(p.Aborted)
	w.bool(p.Batchable)
	return w.finish()
}

func (p *Transfer) readFrom(r *reader) {
	f := r.list()
	p.Handle = f.needU32("handle")
	p.DeliveryID = f.optU32()
	p.DeliveryTag = f.bytes()
	p.MessageFormat = f.optU32()
	p.Settled = Opt[bool]{}
	if f.present() {
		p.Settled = Some(f.boolValue())
	}
	p.More = f.bool()
	p.ReceiverMode = Opt[uint8]{}
	if f.present() {
		p.ReceiverMode = Some(f.u8Value())
	}
	p.State = f.state()
	p.Resume, p.Aborted, p.Batchable = f.bool(), f.bool(), f.bool()
	f.close()
}

// Disposition tells the state of deliveries First to Last. An absent Last
// equals First.
type Disposition struct {
	Role      Role
	First     uint32
	Last      Opt[uint32]
	Settled   bool
	State     State
	Batchable bool
}

func (p *Disposition) appendTo(b []byte) []byte {
	w := beginList(b, codeDisposition)
	w.wrote(appendBool(w.b, bool(p.Role)))
	w.u32(p.First)
	w.optU32(p.Last)
	w.bool(p.Settled)
	w.state(&p.State)
	w.bool(p.Batchable)
	return w.finish()
}

func (p *Disposition) readFrom(r *reader) {
	f := r.list()
	p.Role = Role(f.bool())
	p.First = f.needU32("first")
	p.Last = f.optU32()
	p.Settled = f.bool()
	p.State = f.state()
	p.Batchable = f.bool()
	f.close()
}

// Detach detaches a link; Closed ends it for good.
type Detach struct {
	Handle uint32
	Closed bool
	Error  *Error
}

func (p *Detach) appendTo(b []byte) []byte {
	w := beginList(b, codeDetach)
	w.u32(p.Handle)
	w.bool(p.Closed)
	w.err(p.Error)
	return w.finish()
}

func (p *Detach) readFrom(r *reader) {
	f := r.list()
	p.Handle = f.needU32("handle")
	p.Closed = f.bool()
	p.Error = f.err()
	f.close()
}

// End ends a session.
type End struct{ Error *Error }

func (p *End) appendTo(b []byte) []byte { return appendOneError(b, codeEnd, p.Error) }
func (p *End) readFrom(r *reader)       { p.Error = readOneError(r) }

// Close closes a connection.
type Close struct{ Error *Error }

func (p *Close) appendTo(b []byte) []byte { return appendOneError(b, codeClose, p.Error) }
func (p *Close) readFrom(r *reader)       { p.Error = readOneError(r) }

func appendOneError(b []byte, code byte, e *Error) []byte {
	w := beginList(b, code)
	w.err(e)
	return w.finish()
}

func readOneError(r *reader) *Error {
	f := r.list()
	e := f.err()
	f.close()
	return e
}

package wire

import "fmt"

// Header is the transport header of a message.
type Header struct {
	Durable       bool
	Priority      uint8 // default 4
	TTL           Opt[uint32]
	FirstAcquirer bool
	DeliveryCount uint32
}

// Properties are the immutable properties of a message. Empty strings stand
// for absent ones.
type Properties struct {
	MessageID          Value // ulong, uuid, binary, string or null
	UserID             []byte
	To                 string
	Subject            string
	ReplyTo            string
	CorrelationID      Value
	ContentType        string
	ContentEncoding    string
	AbsoluteExpiryTime Opt[Timestamp]
	CreationTime       Opt[Timestamp]
	GroupID            string
	GroupSequence      Opt[uint32]
	ReplyToGroupID     string
}

// Message is an AMQP message. The body is one of Data, Sequences and Value; a
// Value that is set may be null.
type Message struct {
	Header                *Header
	DeliveryAnnotations   Map
	Annotations           Map
	Properties            *Properties
	ApplicationProperties Map
	Data                  [][]byte  // data sections
	Sequences             [][]Value // amqp-sequence sections
	Value                 Opt[Value]
	Footer                Map
}

// NewMessage returns a message with one data section, which it keeps.
func NewMessage(data []byte) *Message { return &Message{Data: [][]byte{data}} }

// Body returns the bytes of a message whose body is data sections, one
// amqp-value of type string or binary, or absent; ok is false for other
// bodies.
func (m *Message) Body() (b []byte, ok bool) {
	switch {
	case len(m.Sequences) > 0:
		return nil, false
	case m.Value.Set:
		if s, ok := m.Value.V.Text(); ok {
			return []byte(s), true
		}
		return m.Value.V.Bytes()
	case len(m.Data) == 1:
		return m.Data[0], true
	}
	for _, d := range m.Data {
		b = append(b, d...)
	}
	return b, true
}

// AppendMessage appends the encoding of m.
func AppendMessage(b []byte, m *Message) []byte {
	if m.Header != nil {
		b = m.Header.appendTo(b)
	}
	b = appendMapSection(b, codeDeliveryAnn, m.DeliveryAnnotations)
	b = appendMapSection(b, codeMessageAnn, m.Annotations)
	if m.Properties != nil {
		b = m.Properties.appendTo(b)
	}
	b = appendMapSection(b, codeAppProperties, m.ApplicationProperties)
	switch {
	case m.Value.Set:
		b = AppendValue(append(b, 0, 0x53, codeValue), m.Value.V)
	case len(m.Sequences) > 0:
		for _, s := range m.Sequences {
			b = AppendValue(append(b, 0, 0x53, codeSequence), List(s...))
		}
	default:
		for _, d := range m.Data {
			b = appendVar(append(b, 0, 0x53, codeData), 0xa0, d)
		}
	}
	return appendMapSection(b, codeFooter, m.Footer)
}

func appendMapSection(b []byte, code byte, m Map) []byte {
	if len(m) == 0 {
		return b
	}
	return AppendMap(append(b, 0, 0x53, code), m)
}

func (h *Header) appendTo(b []byte) []byte {
	w := beginList(b, codeHeader)
	w.bool(h.Durable)
	w.u8(h.Priority, 4)
	w.optU32(h.TTL)
	w.bool(h.FirstAcquirer)
	w.u32Default(h.DeliveryCount, 0)
	return w.finish()
}

func (h *Header) readFrom(r *reader) {
	f := r.list()
	h.Durable = f.bool()
	h.Priority = f.u8(4)
	h.TTL = f.optU32()
	h.FirstAcquirer = f.bool()
	h.DeliveryCount = f.u32(0)
	f.close()
}

func (p *Properties) appendTo(b []byte) []byte {
	w := beginList(b, codeProperties)
	w.value(p.MessageID)
	w.bytes(p.UserID)
	w.text(p.To)
	w.text(p.Subject)
	w.text(p.ReplyTo)
	w.value(p.CorrelationID)
	w.symbol(p.ContentType)
	w.symbol(p.ContentEncoding)
	w.optTime(p.AbsoluteExpiryTime)
	w.optTime(p.CreationTime)
	w.text(p.GroupID)
	w.optU32(p.GroupSequence)
	w.text(p.ReplyToGroupID)
	return w.finish()
}

func (p *Properties) readFrom(r *reader) {
	f := r.list()
	p.MessageID = f.any()
	p.UserID = f.bytes()
	p.To, p.Subject, p.ReplyTo = f.text(), f.text(), f.text()
	p.CorrelationID = f.any()
	p.ContentType, p.ContentEncoding = f.text(), f.text()
	p.AbsoluteExpiryTime, p.CreationTime = f.optTime(), f.optTime()
	p.GroupID = f.text()
	p.GroupSequence = f.optU32()
	p.ReplyToGroupID = f.text()
	f.close()
}

// DecodeMessage decodes a whole message into m, whose former contents are
// lost. Data sections and the user id alias b; all else is copied.
func DecodeMessage(b []byte, m *Message) error {
	*m = Message{}
	n, err := bodyOffset(b)
	if err != nil {
		return err
	}
	// One copy of all that precedes the body serves every string in it.
	r := reader{b: b[:n:n]}
	r.s = string(r.b)
	for r.err == nil && r.left() > 0 {
		m.section(&r)
	}
	r.s, r.b = "", b
	for r.err == nil && r.left() > 0 {
		m.section(&r)
	}
	if r.err == nil && m.bodies() > 1 {
		r.fail("more than one kind of body")
	}
	return r.err
}

// bodyOffset finds where the first section of the body begins.
func bodyOffset(b []byte) (int, error) {
	r := reader{b: b}
	for r.left() > 0 && r.err == nil {
		start := r.off
		switch code := r.descriptor(); code {
		case codeHeader, codeDeliveryAnn, codeMessageAnn, codeProperties, codeAppProperties:
			r.skip()
		default:
			return start, r.err
		}
	}
	return r.off, r.err
}

func (m *Message) bodies() (n int) {
	if len(m.Data) > 0 {
		n++
	}
	if len(m.Sequences) > 0 {
		n++
	}
	if m.Value.Set {
		n++
	}
	return n
}

// section decodes the section that comes next.
func (m *Message) section(r *reader) {
	switch code := r.descriptor(); code {
	case codeHeader:
		m.Header = new(Header)
		m.Header.readFrom(r)
	case codeDeliveryAnn:
		m.DeliveryAnnotations = r.mapping()
	case codeMessageAnn:
		m.Annotations = r.mapping()
	case codeProperties:
		m.Properties = new(Properties)
		m.Properties.readFrom(r)
	case codeAppProperties:
		m.ApplicationProperties = r.mapping()
	case codeData:
		m.dataSection(r)
	case codeSequence:
		if v := r.value(); v.kind == KindList {
			m.Sequences = append(m.Sequences, v.items)
		} else {
			r.fail("%s in an amqp-sequence section", v.kind)
		}
	case codeValue:
		if m.Value.Set {
			r.fail("two amqp-value sections")
		}
		m.Value = Some(r.value())
	case codeFooter:
		m.Footer = r.mapping()
	default:
		r.fail("unknown section 0x%x", code)
	}
}

func (m *Message) dataSection(r *reader) {
	switch c := r.u8(); c {
	case 0xa0, 0xb0:
		if r.elements++; r.elements > MaxElements {
			r.fail("more than %d sections", MaxElements)
		}
		d := r.take(r.length(c == 0xb0))
		if m.Data == nil {
			m.Data = make([][]byte, 0, 1)
		}
		m.Data = append(m.Data, d)
	default:
		r.fail("constructor 0x%02x in a data section", c)
	}
}

// String describes the message without its contents.
func (m *Message) String() string {
	n := 0
	for _, d := range m.Data {
		n += len(d)
	}
	return fmt.Sprintf("message with %d bytes of data", n)
}

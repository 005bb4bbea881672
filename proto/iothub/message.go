package iothub

import (
	"strings"
	"unicode/utf8"
)

// MaxMessageSize is the largest message, counted by Message.Size.
const MaxMessageSize = 262144

// Names of system properties, as the routing language spells them
// (edgehub-routing.md 3.5).
const (
	MessageID                    = "messageId"
	CorrelationID                = "cid"
	UserID                       = "userId"
	To                           = "to"
	AbsoluteExpiryTime           = "absolute-expiry-time"
	ContentType                  = "contentType"
	ContentEncoding              = "contentEncoding"
	OutputName                   = "outputName"
	InputName                    = "inputName"
	ConnectionDeviceID           = "connectionDeviceId"
	ConnectionModuleID           = "connectionModuleId"
	ConnectionDeviceGenerationID = "connectionDeviceGenerationId"
	ConnectionAuthMethod         = "connectionAuthMethod"
	MessageSchema                = "messageSchema"
	MessageType                  = "messageType"
	CreationTime                 = "creationTime"
	EnqueuedTime                 = "enqueuedTime"
	InterfaceID                  = "iothub-interface-id"
	ComponentName                = "dt-subject"
	ModelID                      = "modelId"
	DiagnosticID                 = "diagnosticId"
	CorrelationContext           = "correlationContext"
	Operation                    = "operation"
	Ack                          = "ack"
	LockToken                    = "lockToken"
	DeliveryCount                = "deliveryCount"
	SequenceNumber               = "sequenceNumber"
	EdgeMessageID                = "edgeMessageId"
	EdgeHubOrigin                = "edgeHubOriginInterface"
	ReportedByDeviceID           = "rpSenderDeviceId"
	ReportedByModuleID           = "rpSenderModuleId"
)

// Property is one application or system property. Null marks a property that is
// present without a value ("key" in a property bag, as opposed to "key=").
type Property struct {
	Name  string
	Value string
	Null  bool
}

// Properties is an ordered list of properties, short enough for linear search. Names
// are unique if only its methods and a Collector add to it. Not safe for concurrent
// change.
type Properties []Property

// Get returns the value of the property with exactly this name; a null-valued one
// gives "".
func (p Properties) Get(name string) string {
	v, _ := p.Lookup(name)
	return v.Value
}

// Lookup returns the property with exactly this name.
func (p Properties) Lookup(name string) (Property, bool) {
	for i := range p {
		if p[i].Name == name {
			return p[i], true
		}
	}
	return Property{}, false
}

// LookupFold returns the first property whose name matches without regard to
// case, as the routing language compares.
func (p Properties) LookupFold(name string) (Property, bool) {
	for i := range p {
		if len(p[i].Name) == len(name) && strings.EqualFold(p[i].Name, name) {
			return p[i], true
		}
	}
	return Property{}, false
}

// Set adds a property or replaces the value of the one with this name.
func (p *Properties) Set(name, value string) { p.Put(Property{Name: name, Value: value}) }

// SetNull adds or replaces a property without a value.
func (p *Properties) SetNull(name string) { p.Put(Property{Name: name, Null: true}) }

// Put adds a property or replaces the one with its name.
func (p *Properties) Put(v Property) {
	for i := range *p {
		if (*p)[i].Name == v.Name {
			(*p)[i] = v
			return
		}
	}
	*p = append(*p, v)
}

// linearLimit is the number of properties up to which equal names are found by linear
// search.
const linearLimit = 32

// Collector adds to a list of properties that may become long, as a message of a client can
// have ten thousands of them: a name is found as fast then. The list must not be changed
// otherwise meanwhile. Not safe for concurrent use.
type Collector struct {
	list  *Properties
	index map[string]int // places by name; nil while the list is short
}

// Collect begins to add to a list.
func (p *Properties) Collect() Collector { return Collector{list: p} }

// Set adds a property or replaces the one with this name.
func (c *Collector) Set(v Property) {
	if len(*c.list) < linearLimit {
		c.list.Put(v)
		return
	}
	if c.index == nil {
		c.index = make(map[string]int, 2*len(*c.list))
		for i := range *c.list {
			c.index[(*c.list)[i].Name] = i
		}
	}
	if i, have := c.index[v.Name]; have {
		(*c.list)[i] = v
		return
	}
	c.index[v.Name] = len(*c.list)
	*c.list = append(*c.list, v)
}

// Delete removes the property with this name, if there is one; order is kept.
func (p *Properties) Delete(name string) {
	for i := range *p {
		if (*p)[i].Name == name {
			*p = append((*p)[:i], (*p)[i+1:]...)
			return
		}
	}
}

// Clone returns a copy that shares nothing that can change.
func (p Properties) Clone() Properties {
	if p == nil {
		return nil
	}
	return append(Properties(nil), p...)
}

// Message is one message between a client and a hub, in any direction. Body is
// opaque. Once handed to a hub or a client it must not be changed.
type Message struct {
	Body       []byte
	Properties Properties // application properties
	System     Properties // system properties, by the names above
}

// Size is the size that IoT Hub limits: bytes of the body plus characters of all
// names and values of properties (edgehub-routing.md 6.1).
func (m *Message) Size() int {
	n := len(m.Body)
	for _, list := range [2]Properties{m.Properties, m.System} {
		for i := range list {
			n += utf8.RuneCountInString(list[i].Name) + utf8.RuneCountInString(list[i].Value)
		}
	}
	return n
}

// Sender is the identity that the hub stamped on the message at its entry; zero
// if it has none yet.
func (m *Message) Sender() Identity {
	return Identity{Device: m.System.Get(ConnectionDeviceID), Module: m.System.Get(ConnectionModuleID)}
}

// Clone returns a copy with property lists of its own; the body is shared.
func (m *Message) Clone() *Message {
	return &Message{Body: m.Body, Properties: m.Properties.Clone(), System: m.System.Clone()}
}

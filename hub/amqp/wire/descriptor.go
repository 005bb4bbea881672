package wire

// The descriptors of the standard.
const (
	codeOpen           = 0x10
	codeBegin          = 0x11
	codeAttach         = 0x12
	codeFlow           = 0x13
	codeTransfer       = 0x14
	codeDisposition    = 0x15
	codeDetach         = 0x16
	codeEnd            = 0x17
	codeClose          = 0x18
	codeError          = 0x1d
	codeSource         = 0x28
	codeTarget         = 0x29
	codeCoordinator    = 0x30
	codeSASLMechanisms = 0x40
	codeSASLInit       = 0x41
	codeSASLChallenge  = 0x42
	codeSASLResponse   = 0x43
	codeSASLOutcome    = 0x44
	codeHeader         = 0x70
	codeDeliveryAnn    = 0x71
	codeMessageAnn     = 0x72
	codeProperties     = 0x73
	codeAppProperties  = 0x74
	codeData           = 0x75
	codeSequence       = 0x76
	codeValue          = 0x77
	codeFooter         = 0x78

	codeUnknown = ^uint64(0)
)

// descriptor reads a descriptor: a ulong, or the symbol that stands for it.
func (r *reader) descriptor() uint64 {
	if c := r.u8(); c != 0 {
		r.fail("constructor 0x%02x instead of a descriptor", c)
		return codeUnknown
	}
	switch c := r.u8(); c {
	case 0x53:
		return uint64(r.u8())
	case 0x80:
		return r.u64()
	case 0x44:
		return 0
	case 0xa3, 0xb3:
		return symbolicCode(string(r.take(r.length(c == 0xb3))))
	default:
		r.skipBody(c)
		return codeUnknown
	}
}

func symbolicCode(name string) uint64 {
	switch name {
	case "amqp:open:list":
		return codeOpen
	case "amqp:begin:list":
		return codeBegin
	case "amqp:attach:list":
		return codeAttach
	case "amqp:flow:list":
		return codeFlow
	case "amqp:transfer:list":
		return codeTransfer
	case "amqp:disposition:list":
		return codeDisposition
	case "amqp:detach:list":
		return codeDetach
	case "amqp:end:list":
		return codeEnd
	case "amqp:close:list":
		return codeClose
	case "amqp:error:list":
		return codeError
	case "amqp:received:list":
		return uint64(StateReceived)
	case "amqp:accepted:list":
		return uint64(StateAccepted)
	case "amqp:rejected:list":
		return uint64(StateRejected)
	case "amqp:released:list":
		return uint64(StateReleased)
	case "amqp:modified:list":
		return uint64(StateModified)
	case "amqp:source:list":
		return codeSource
	case "amqp:target:list":
		return codeTarget
	case "amqp:coordinator:list":
		return codeCoordinator
	case "amqp:sasl-mechanisms:list":
		return codeSASLMechanisms
	case "amqp:sasl-init:list":
		return codeSASLInit
	case "amqp:sasl-challenge:list":
		return codeSASLChallenge
	case "amqp:sasl-response:list":
		return codeSASLResponse
	case "amqp:sasl-outcome:list":
		return codeSASLOutcome
	}
	return symbolicSection(name)
}

func symbolicSection(name string) uint64 {
	switch name {
	case "amqp:header:list":
		return codeHeader
	case "amqp:delivery-annotations:map":
		return codeDeliveryAnn
	case "amqp:message-annotations:map":
		return codeMessageAnn
	case "amqp:properties:list":
		return codeProperties
	case "amqp:application-properties:map":
		return codeAppProperties
	case "amqp:data:binary":
		return codeData
	case "amqp:amqp-sequence:list":
		return codeSequence
	case "amqp:amqp-value:*":
		return codeValue
	case "amqp:footer:map":
		return codeFooter
	}
	return codeUnknown
}

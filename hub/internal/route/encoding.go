package route

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// queryable returns the body as UTF-8 if the message says that it is JSON in an
// encoding that can be queried (spec edgehub-routing 5.1).
func queryable(m *iothub.Message) ([]byte, bool) {
	contentType, ok := m.System.LookupFold(iothub.ContentType)
	if !ok || contentType.Null || !strings.EqualFold(contentType.Value, "application/json") {
		return nil, false
	}
	encoding, ok := m.System.LookupFold(iothub.ContentEncoding)
	if !ok || encoding.Null || len(m.Body) > iothub.MaxMessageSize {
		return nil, false
	}
	switch {
	case strings.EqualFold(encoding.Value, "utf-8"):
		body := bytes.TrimPrefix(m.Body, []byte("\xef\xbb\xbf"))
		if !utf8.Valid(body) {
			body = bytes.ToValidUTF8(body, []byte("\uFFFD"))
		}
		return body, true
	case strings.EqualFold(encoding.Value, "utf-16"):
		return fromUTF16(m.Body), true
	case strings.EqualFold(encoding.Value, "utf-32"):
		return fromUTF32(m.Body), true
	}
	return nil, false
}

// fromUTF16 decodes little-endian text, or big-endian if it starts with that mark.
func fromUTF16(b []byte) []byte {
	var order binary.ByteOrder = binary.LittleEndian
	if bytes.HasPrefix(b, []byte{0xfe, 0xff}) {
		order = binary.BigEndian
	}
	out := make([]byte, 0, len(b))
	for i := 0; i+1 < len(b); i += 2 {
		unit := rune(order.Uint16(b[i:]))
		if unit == 0xfeff && i == 0 {
			continue
		}
		out = appendUnit(out, unit)
	}
	if len(b)%2 != 0 {
		out = utf8.AppendRune(out, utf8.RuneError)
	}
	return out
}

// fromUTF32 decodes little-endian text, or big-endian if it starts with that mark.
func fromUTF32(b []byte) []byte {
	var order binary.ByteOrder = binary.LittleEndian
	if bytes.HasPrefix(b, []byte{0, 0, 0xfe, 0xff}) {
		order = binary.BigEndian
	}
	out := make([]byte, 0, len(b)/2)
	for i := 0; i+3 < len(b); i += 4 {
		r := order.Uint32(b[i:])
		switch {
		case r == 0xfeff && i == 0:
		case r > utf8.MaxRune:
			out = utf8.AppendRune(out, utf8.RuneError)
		default:
			out = utf8.AppendRune(out, rune(r))
		}
	}
	if len(b)%4 != 0 {
		out = utf8.AppendRune(out, utf8.RuneError)
	}
	return out
}

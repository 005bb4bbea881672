package amqpload

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestTransferHoldsTheMessage(t *testing.T) {
	message := Encode([]byte("body"), "kind", "telemetry")
	b := appendTransfer(nil, 0x01020304, message)
	if size := binary.BigEndian.Uint32(b); int(size) != len(b) {
		t.Fatalf("frame of %d bytes says %d", len(b), size)
	}
	code, fields, err := performative(b[8:])
	if err != nil || code != codeTransfer || len(fields) != 4 {
		t.Fatalf("code %#x, %d fields, %v", code, len(fields), err)
	}
	if at(fields, 0).n != 0 || at(fields, 1).n != 0x01020304 || !bytes.Equal(at(fields, 2).text, []byte{1, 2, 3, 4}) {
		t.Errorf("fields %+v", fields)
	}
	if !bytes.HasSuffix(b, message) || !bytes.HasSuffix(message, []byte("\xb0\x00\x00\x00\x04body")) {
		t.Errorf("frame % x", b)
	}
}

func TestPerformativesOfServers(t *testing.T) {
	for _, c := range []struct {
		name string
		body string
		code byte
		want []value
	}{
		{"disposition of a range, small encodings", "\x00\x53\x15\xc0\x0b\x05\x41\x52\x07\x52\x09\x41\x00\x53\x24\x45", codeDisposition,
			[]value{{set: true, n: 1}, {set: true, n: 7}, {set: true, n: 9}, {set: true, n: 1}, {set: true, code: codeAccepted}}},
		{"absent fields", "\x00\x53\x13\xd0\x00\x00\x00\x07\x00\x00\x00\x03\x40\x43\x42", codeFlow, []value{{}, {set: true}, {set: true}}},
		{"empty list", "\x00\x53\x18\x45", codeClose, nil},
	} {
		code, fields, err := performative([]byte(c.body))
		if err != nil || code != c.code || len(fields) != len(c.want) {
			t.Errorf("%s: code %#x, fields %+v, %v", c.name, code, fields, err)
			continue
		}
		for i, f := range fields {
			f.text = nil
			if w := c.want[i]; f.set != w.set || f.n != w.n || f.code != w.code {
				t.Errorf("%s: field %d is %+v", c.name, i, f)
			}
		}
	}
}

func FuzzPerformative(f *testing.F) {
	f.Add([]byte("\x00\x53\x15\xc0\x0b\x05\x41\x52\x07\x52\x09\x41\x00\x53\x24\x45"))
	f.Add([]byte("\x00\x53\x13\xd0\xff\xff\xff\xff\xff\xff\xff\xff\xb0\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, fields, err := performative(b); err == nil && len(fields) > len(b) {
			t.Errorf("%d fields of %d bytes", len(fields), len(b))
		}
	})
}

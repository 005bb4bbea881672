package mqtt

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func connectPacket(flags byte, client, username string) []byte {
	sized := func(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }
	body := append(sized("MQTT"), 4, flags, 0, 60)
	body = append(append(body, sized(client)...), sized(username)...)
	return append(binary.AppendUvarint([]byte{0x10}, uint64(len(body))), body...)
}

func TestPeekUsername(t *testing.T) {
	const name, will = 1 << 7, 1 << 2
	long := strings.Repeat("x", 300)
	tests := map[string]struct {
		in   []byte
		want string // "" for none
	}{
		"short":                {connectPacket(name, "c", "scope/registrations/c"), "scope/registrations/c"},
		"size of two bytes":    {connectPacket(name, long, long), long},
		"longer than looked":   {connectPacket(name, "c", strings.Repeat("y", peekBytes)), ""},
		"no user name":         {connectPacket(0, "c", ""), ""},
		"a will":               {connectPacket(name|will, "c", "x"), ""},
		"another packet":       {append([]byte{0x30}, connectPacket(name, "c", "x")[1:]...), ""},
		"cut off":              {connectPacket(name, "client", "user")[:18], ""},
		"sizes that lie":       {[]byte{0x10, 14, 0xff, 0xff, 'M', 'Q', 'T', 'T', 4, name, 0, 0, 0, 1, 'c', 'x'}, ""},
		"nothing":              {nil, ""},
		"size without an end":  {[]byte{0x10, 0xff, 0xff, 0xff, 0xff, 0xff}, ""},
		"more than the packet": {append(connectPacket(name, "c", "u"), "rest"...), "u"},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			r := bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(tt.in)), peekBytes)
			got, ok := peekUsername(r)
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("%q, %v", got, ok)
			}
			if all, err := io.ReadAll(r); err != nil || !bytes.Equal(all, tt.in) {
				t.Errorf("%d bytes are left of %d", len(all), len(tt.in))
			}
		})
	}
}

// What cannot be a registration is not waited for, or the peer would hold the
// connection until the time for a CONNECT is over.
func TestPeekDoesNotWaitForMoreThanItNeeds(t *testing.T) {
	for what, in := range map[string][]byte{
		"another packet":    {0xc0, 0},
		"CONNECT of 0":      {0x10, 0},
		"CONNECT of 256 MB": {0x10, 0xff, 0xff, 0xff, 0x7f},
		"CONNECT of 4 KiB":  append(binary.AppendUvarint([]byte{0x10}, 4096), "\x00\x04MQTT"...),
	} {
		t.Run(what, func(t *testing.T) {
			more := readerFunc(func([]byte) (int, error) {
				t.Error("more was waited for")
				return 0, io.ErrUnexpectedEOF
			})
			if name, ok := peekUsername(bufio.NewReaderSize(io.MultiReader(bytes.NewReader(in), more), peekBytes)); ok {
				t.Errorf("found %q", name)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func FuzzPeekUsername(f *testing.F) {
	f.Add(connectPacket(1<<7, "c", "scope/registrations/c"))
	f.Add([]byte{0x10, 0x80, 0x80, 0x01})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(raw), peekBytes)
		if name, ok := peekUsername(r); ok && !bytes.Contains(raw, []byte(name)) {
			t.Error(name)
		}
		if all, err := io.ReadAll(r); err != nil || !bytes.Equal(all, raw) {
			t.Error("bytes are lost")
		}
	})
}

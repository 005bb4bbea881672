package mqtt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

const firstLimit = 320 << 10

// greedy is a connection on which some bytes come and then nothing, and notes the
// largest room for more that was made.
type greedy struct {
	in  *bytes.Reader
	got int
	max int
}

func (g *greedy) Read(p []byte) (int, error) {
	g.max = max(g.max, g.got+len(p))
	n, err := g.in.Read(p)
	g.got += n
	return n, err
}

func TestNoRoomIsMadeForWhatIsOnlyAnnounced(t *testing.T) {
	whole := append(binary.AppendUvarint([]byte{0x10}, 300<<10), make([]byte, 300<<10)...)
	for _, sent := range []int{4, 100, 1000, 10_000, 100_000} {
		g := &greedy{in: bytes.NewReader(whole[:sent])}
		if _, err := readFirst(g, firstLimit); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: %v", sent, err)
		}
		if most := max(512, 3*sent); g.max > most {
			t.Errorf("room for %d bytes, of which %d have come", g.max, sent)
		}
	}
}

func TestReadFirst(t *testing.T) {
	long := connectPacket(1<<7, "c", strings.Repeat("u", 60_000))
	tests := map[string]struct {
		in   []byte
		want int // bytes of the packet; 0: an error
	}{
		"a CONNECT":           {connectPacket(1<<7, "c", "u"), len(connectPacket(1<<7, "c", "u"))},
		"a long one":          {long, len(long)},
		"and another packet":  {append(connectPacket(1<<7, "c", "u"), 0xc0, 0), len(connectPacket(1<<7, "c", "u"))},
		"of no length":        {[]byte{0x10, 0}, 2},
		"another packet":      {[]byte{0x30, 0}, 0},
		"HTTP":                {[]byte("GET / HTTP/1.1\r\n\r\n"), 0},
		"size without end":    {[]byte{0x10, 0xff, 0xff, 0xff, 0xff, 0x7f}, 0},
		"larger than allowed": {append(binary.AppendUvarint([]byte{0x10}, firstLimit+1), 0), 0},
		"cut off":             {long[:1000], 0},
		"nothing":             {nil, 0},
	}
	for name, tt := range tests {
		for _, one := range []bool{false, true} {
			rest := bytes.NewReader(tt.in)
			var r io.Reader = rest
			if one {
				r = iotest.OneByteReader(rest)
			}
			got, err := readFirst(r, firstLimit)
			if (err != nil) != (tt.want == 0) || len(got) != tt.want || !bytes.Equal(got, tt.in[:tt.want]) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
			if tt.want > 0 && rest.Len() != len(tt.in)-tt.want {
				t.Errorf("%s: %d bytes are left", name, rest.Len())
			}
		}
	}
}

func FuzzReadFirst(f *testing.F) {
	f.Add(connectPacket(1<<7, "c", "u"))
	f.Add([]byte{0x10, 0x80, 0x80, 0x01})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		got, err := readFirst(r, firstLimit)
		if err == nil && (!bytes.HasPrefix(raw, got) || r.Len() != len(raw)-len(got) || got[0]>>4 != 1) {
			t.Errorf("%x of %x", got, raw)
		}
	})
}

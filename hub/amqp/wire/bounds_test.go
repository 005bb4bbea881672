package wire_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/amqp/wire"
)

// A described value takes two bytes at least and many in memory: a tree of them counts
// as what it holds.
func TestTreesOfDescribedValuesCountAsElements(t *testing.T) {
	var tree func(depth int) []byte
	tree = func(depth int) []byte {
		if depth == 0 {
			return []byte{0x40}
		}
		half := tree(depth - 1)
		return append(append([]byte{0}, half...), half...)
	}
	if _, n, err := wire.DecodeValue(tree(15)); err != nil || n != 1<<16-1 {
		t.Errorf("%d bytes of a tree of 65534 values: %v", n, err)
	}
	if _, _, err := wire.DecodeValue(tree(16)); !errors.Is(err, wire.ErrDecode) {
		t.Errorf("tree of 131070 values: %v", err)
	}
	// In an array each element repeats the descriptor.
	one := append([]byte{0, 0x53, 1}, 0x40)
	list := append([]byte{0xd0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, bytes.Repeat(one, 0xffff)...)
	size := len(list) - 5
	list[1], list[2], list[3], list[4] = byte(size>>24), byte(size>>16), byte(size>>8), byte(size)
	if _, _, err := wire.DecodeValue(list); !errors.Is(err, wire.ErrDecode) {
		t.Errorf("list of 65535 described values: %v", err)
	}
}

// Peers mix up strings and symbols.
func TestStringsAndSymbolsAreTakenForEachOther(t *testing.T) {
	for name, constructor := range map[string]byte{"string": 0xa1, "symbol": 0xa3} {
		// Properties with seven fields, of which the last is the content type.
		raw := []byte{0, 0x53, 0x73, 0xc0, 12, 7, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, constructor, 3, 'a', '/', 'b'}
		var m wire.Message
		if err := wire.DecodeMessage(raw, &m); err != nil || m.Properties.ContentType != "a/b" {
			t.Errorf("%s: %v %v", name, m.Properties, err)
		}
	}
}

// go-amqp and uAMQP do not decode a bare symbol.
func TestOneMechanismIsAnArray(t *testing.T) {
	raw, _ := wire.AppendFrame(nil, wire.FrameSASL, 0, &wire.SASLMechanisms{Mechanisms: []string{"PLAIN"}}, nil, 0)
	v, _, err := wire.DecodeValue(raw[wire.FrameHeaderSize:])
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := v.Described()
	if got := list.Items()[0]; got.Kind() != wire.KindArray || len(got.Items()) != 1 || got.Items()[0].Kind() != wire.KindSymbol {
		t.Errorf("%s", got)
	}
}

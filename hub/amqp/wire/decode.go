package wire

import "unicode/utf8"

// DecodeValue decodes one value from the front of b and returns how many bytes
// it took. The Value does not alias b.
func DecodeValue(b []byte) (v Value, n int, err error) {
	r := reader{b: b}
	v = r.value()
	if r.err != nil {
		return Value{}, 0, r.err
	}
	return v, r.off, nil
}

func (r *reader) value() Value {
	c := r.u8()
	if c == 0 {
		return r.described()
	}
	return r.body(c)
}

func (r *reader) described() Value {
	if !r.enter() {
		return Value{}
	}
	defer r.leave()
	if r.elements += 2; r.elements > MaxElements {
		r.fail("more than %d elements", MaxElements)
		return Value{}
	}
	items := make([]Value, 2)
	items[0] = r.value()
	items[1] = r.value()
	return Value{kind: KindDescribed, items: items}
}

// body decodes what follows the constructor c.
func (r *reader) body(c byte) Value {
	switch c {
	case 0x40:
		return Value{}
	case 0x41:
		return Bool(true)
	case 0x42:
		return Bool(false)
	case 0x43:
		return Uint(0)
	case 0x44:
		return Ulong(0)
	case 0x45:
		return Value{kind: KindList}
	case 0x50:
		return Ubyte(r.u8())
	case 0x51:
		return Byte(int8(r.u8()))
	case 0x52:
		return Uint(uint32(r.u8()))
	case 0x53:
		return Ulong(uint64(r.u8()))
	case 0x54:
		return Int(int32(int8(r.u8())))
	case 0x55:
		return Long(int64(int8(r.u8())))
	case 0x56:
		return r.boolean()
	case 0x60:
		return Ushort(r.u16())
	case 0x61:
		return Short(int16(r.u16()))
	case 0x70:
		return Uint(r.u32())
	case 0x71:
		return Int(int32(r.u32()))
	case 0x72:
		return Value{kind: KindFloat, num: uint64(r.u32())}
	case 0x73:
		return Value{kind: KindChar, num: uint64(r.u32())}
	case 0x80:
		return Ulong(r.u64())
	case 0x81:
		return Long(int64(r.u64()))
	case 0x82:
		return Value{kind: KindDouble, num: r.u64()}
	case 0x83:
		return Value{kind: KindTimestamp, num: r.u64()}
	case 0x74:
		return Value{kind: KindDecimal32, str: r.text(4)}
	case 0x84:
		return Value{kind: KindDecimal64, str: r.text(8)}
	case 0x94:
		return Value{kind: KindDecimal128, str: r.text(16)}
	case 0x98:
		return Value{kind: KindUUID, str: r.text(16)}
	}
	return r.variable(c)
}

func (r *reader) boolean() Value {
	n := r.u8()
	if n > 1 {
		r.fail("boolean %d", n)
	}
	return Bool(n == 1)
}

// variable decodes the types whose size is written before them.
func (r *reader) variable(c byte) Value {
	wide := c&0x10 != 0
	switch c {
	case 0xa0, 0xb0:
		return Value{kind: KindBinary, str: r.text(r.length(wide))}
	case 0xa1, 0xb1:
		return Value{kind: KindString, str: r.utf8(wide)}
	case 0xa3, 0xb3:
		return Value{kind: KindSymbol, str: r.text(r.length(wide))}
	case 0xc0, 0xd0:
		return Value{kind: KindList, items: r.elementsOf(wide)}
	case 0xc1, 0xd1:
		v := Value{kind: KindMap, items: r.elementsOf(wide)}
		if len(v.items)%2 != 0 {
			r.fail("map of %d elements", len(v.items))
		}
		return v
	case 0xe0, 0xf0:
		return r.array(wide)
	}
	r.fail("constructor 0x%02x", c)
	return Value{}
}

func (r *reader) utf8(wide bool) string {
	s := r.text(r.length(wide))
	if !utf8.ValidString(s) {
		r.fail("string is not UTF-8")
	}
	return s
}

func (r *reader) elementsOf(wide bool) []Value {
	if !r.enter() {
		return nil
	}
	defer r.leave()
	count, end := r.compound(wide, 1)
	if count == 0 {
		r.closeCompound(end)
		return nil
	}
	items := make([]Value, count)
	for i := range items {
		if items[i] = r.value(); r.err != nil {
			return nil
		}
	}
	r.closeCompound(end)
	return items
}

// maxZeroWidth limits arrays whose elements take no bytes at all, for a few
// bytes could otherwise announce many.
const maxZeroWidth = 1024

func (r *reader) array(wide bool) Value {
	if !r.enter() {
		return Value{}
	}
	defer r.leave()
	count, end := r.compound(wide, 0)
	var descriptors []Value
	c := r.u8()
	for c == 0 && r.err == nil {
		if len(descriptors) == MaxDepth {
			r.fail("too many descriptors")
			return Value{}
		}
		descriptors = append(descriptors, r.value())
		c = r.u8()
	}
	if count == 0 {
		return r.emptyArray(c, end)
	}
	r.elements += 2 * count * len(descriptors)
	if r.elements > MaxElements || c>>4 == 4 && count > maxZeroWidth {
		r.fail("array of %d elements", count)
		return Value{}
	}
	items := make([]Value, count)
	for i := range items {
		items[i] = r.body(c)
		if r.err != nil {
			return Value{}
		}
		for j := len(descriptors) - 1; j >= 0; j-- {
			items[i] = Described(descriptors[j], items[i])
		}
	}
	r.closeCompound(end)
	return Value{kind: KindArray, items: items}
}

// emptyArray learns the type of the elements from the constructor alone.
func (r *reader) emptyArray(c byte, end int) Value {
	r.closeCompound(end)
	for k := KindNull; k < KindDescribed; k++ {
		if wideCode(k) == c {
			return EmptyArray(k)
		}
	}
	if k := narrowKind(c); k != KindNull {
		return EmptyArray(k)
	}
	r.fail("constructor 0x%02x", c)
	return Value{}
}

// narrowKind returns the type of the compact constructors.
func narrowKind(c byte) Kind {
	switch c {
	case 0x41, 0x42:
		return KindBool
	case 0x43, 0x52:
		return KindUint
	case 0x44, 0x53:
		return KindUlong
	case 0x54:
		return KindInt
	case 0x55:
		return KindLong
	case 0xa0:
		return KindBinary
	case 0xa1:
		return KindString
	case 0xa3:
		return KindSymbol
	case 0x45, 0xc0:
		return KindList
	case 0xc1:
		return KindMap
	case 0xe0:
		return KindArray
	}
	return KindNull
}

// mapping decodes a map, or null as an empty one.
func (r *reader) mapping() Map {
	c := r.u8()
	if c == 0x40 || r.err != nil {
		return nil
	}
	if c != 0xc1 && c != 0xd1 {
		r.fail("constructor 0x%02x instead of a map", c)
		return nil
	}
	if !r.enter() {
		return nil
	}
	defer r.leave()
	count, end := r.compound(c == 0xd1, 1)
	if count%2 != 0 {
		r.fail("map of %d elements", count)
		return nil
	}
	if count == 0 {
		r.closeCompound(end)
		return nil
	}
	m := make(Map, count/2)
	for i := range m {
		m[i].Key = r.value()
		if m[i].Value = r.value(); r.err != nil {
			return nil
		}
	}
	r.closeCompound(end)
	return m
}

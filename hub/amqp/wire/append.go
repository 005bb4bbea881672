package wire

import "encoding/binary"

// AppendValue appends the most compact encoding of v.
func AppendValue(b []byte, v Value) []byte {
	switch v.kind {
	case KindNull:
		return append(b, 0x40)
	case KindBool:
		return appendBool(b, v.num != 0)
	case KindUbyte:
		return append(b, 0x50, byte(v.num))
	case KindUint:
		return appendUint(b, uint32(v.num))
	case KindUlong:
		return appendUlong(b, v.num)
	case KindByte:
		return append(b, 0x51, byte(v.num))
	case KindInt:
		if int64(v.num) == int64(int8(v.num)) {
			return append(b, 0x54, byte(v.num))
		}
	case KindLong:
		if int64(v.num) == int64(int8(v.num)) {
			return append(b, 0x55, byte(v.num))
		}
	case KindBinary:
		return appendVar(b, 0xa0, v.str)
	case KindString:
		return appendVar(b, 0xa1, v.str)
	case KindSymbol:
		return appendVar(b, 0xa3, v.str)
	case KindList, KindMap:
		code := byte(0xc0)
		if v.kind == KindMap {
			code = 0xc1
		}
		start := len(b)
		b = append(b, code, 0, 0)
		for i := range v.items {
			b = AppendValue(b, v.items[i])
		}
		return endCompound(b, start, len(v.items))
	case KindArray:
		return appendArray(b, v)
	case KindDescribed:
		b = append(b, 0)
		b = AppendValue(b, v.items[0])
		return AppendValue(b, v.items[1])
	}
	return appendElement(append(b, wideCode(v.kind)), v)
}

// wideCode returns the constructor of the widest encoding of a type, which is
// the one that fits every element of an array.
func wideCode(k Kind) byte {
	return [...]byte{
		KindNull: 0x40, KindBool: 0x56, KindUbyte: 0x50, KindUshort: 0x60, KindUint: 0x70, KindUlong: 0x80,
		KindByte: 0x51, KindShort: 0x61, KindInt: 0x71, KindLong: 0x81, KindFloat: 0x72, KindDouble: 0x82,
		KindDecimal32: 0x74, KindDecimal64: 0x84, KindDecimal128: 0x94, KindChar: 0x73, KindTimestamp: 0x83,
		KindUUID: 0x98, KindBinary: 0xb0, KindString: 0xb1, KindSymbol: 0xb3, KindList: 0xd0, KindMap: 0xd1,
		KindArray: 0xf0, KindDescribed: 0x00,
	}[k]
}

// appendElement appends v as wideCode has announced it.
func appendElement(b []byte, v Value) []byte {
	switch v.kind {
	case KindNull:
		return b
	case KindBool, KindUbyte, KindByte:
		return append(b, byte(v.num))
	case KindUshort, KindShort:
		return binary.BigEndian.AppendUint16(b, uint16(v.num))
	case KindUint, KindInt, KindFloat, KindChar:
		return binary.BigEndian.AppendUint32(b, uint32(v.num))
	case KindUlong, KindLong, KindDouble, KindTimestamp:
		return binary.BigEndian.AppendUint64(b, v.num)
	case KindBinary, KindString, KindSymbol:
		b = binary.BigEndian.AppendUint32(b, uint32(len(v.str)))
		return append(b, v.str...)
	case KindList, KindMap:
		start := len(b)
		b = append(b, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(len(v.items)))
		for i := range v.items {
			b = AppendValue(b, v.items[i])
		}
		binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
		return b
	case KindArray:
		start := len(b)
		b = append(b, 0, 0, 0, 0)
		b = appendArrayBody(binary.BigEndian.AppendUint32(b, uint32(len(v.items))), v)
		binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
		return b
	case KindDescribed:
		return appendElement(b, v.items[1])
	}
	return append(b, v.str...) // uuid and decimals
}

func appendArray(b []byte, v Value) []byte {
	start := len(b)
	b = appendArrayBody(append(b, 0xe0, 0, 0), v)
	return endCompound(b, start, len(v.items))
}

// appendArrayBody appends the constructor and the elements of an array.
func appendArrayBody(b []byte, v Value) []byte {
	if len(v.items) == 0 {
		return append(b, wideCode(Kind(v.num)))
	}
	e := v.items[0]
	for e.kind == KindDescribed {
		b = AppendValue(append(b, 0), e.items[0])
		e = e.items[1]
	}
	b = append(b, wideCode(e.kind))
	for i := range v.items {
		b = appendElement(b, v.items[i])
	}
	return b
}

// endCompound finishes a list, map or array that began at start with a short
// constructor and two bytes for size and count.
func endCompound(b []byte, start, count int) []byte {
	n := len(b) - start - 3
	if n == 0 && b[start] == 0xc0 {
		return append(b[:start], 0x45)
	}
	if n < 255 && count <= 255 {
		b[start+1], b[start+2] = byte(n+1), byte(count)
		return b
	}
	b = append(b, 0, 0, 0, 0, 0, 0)
	copy(b[start+9:], b[start+3:start+3+n])
	b[start] += 0x10
	binary.BigEndian.PutUint32(b[start+1:], uint32(n+4))
	binary.BigEndian.PutUint32(b[start+5:], uint32(count))
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 0x41)
	}
	return append(b, 0x42)
}

func appendUint(b []byte, n uint32) []byte {
	switch {
	case n == 0:
		return append(b, 0x43)
	case n < 256:
		return append(b, 0x52, byte(n))
	}
	return append(b, 0x70, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func appendUlong(b []byte, n uint64) []byte {
	switch {
	case n == 0:
		return append(b, 0x44)
	case n < 256:
		return append(b, 0x53, byte(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0x80), n)
}

// appendVar appends a binary, string or symbol; code is that of the short form.
func appendVar[T string | []byte](b []byte, code byte, s T) []byte {
	if len(s) < 256 {
		b = append(b, code, byte(len(s)))
	} else {
		b = append(b, code+0x10)
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	}
	return append(b, s...)
}

// AppendMap appends m.
func AppendMap(b []byte, m Map) []byte {
	start := len(b)
	b = append(b, 0xc1, 0, 0)
	for i := range m {
		b = AppendValue(b, m[i].Key)
		b = AppendValue(b, m[i].Value)
	}
	return endCompound(b, start, 2*len(m))
}

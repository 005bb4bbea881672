package wire

import (
	"encoding/hex"
	"math"
	"strconv"
	"time"
)

// Kind is the AMQP type of a Value.
type Kind uint8

// The AMQP types. The zero Kind is null.
const (
	KindNull Kind = iota
	KindBool
	KindUbyte
	KindUshort
	KindUint
	KindUlong
	KindByte
	KindShort
	KindInt
	KindLong
	KindFloat
	KindDouble
	KindDecimal32
	KindDecimal64
	KindDecimal128
	KindChar
	KindTimestamp
	KindUUID
	KindBinary
	KindString
	KindSymbol
	KindList
	KindMap
	KindArray
	KindDescribed
)

var kindNames = [...]string{
	"null", "boolean", "ubyte", "ushort", "uint", "ulong", "byte", "short", "int", "long",
	"float", "double", "decimal32", "decimal64", "decimal128", "char", "timestamp", "uuid",
	"binary", "string", "symbol", "list", "map", "array", "described",
}

// String returns the name that the standard gives to the type.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// Value is one AMQP value of any type. The zero Value is null. Values are
// immutable: they may be copied and shared between goroutines, as long as
// nobody writes to the slice that Items returns.
type Value struct {
	kind  Kind
	num   uint64  // scalars: the bits; an empty array: the Kind of its elements
	str   string  // binary, string, symbol, uuid, decimals: the bytes
	items []Value // list, array: elements; map: keys and values in turn; described: descriptor, value
}

// Bool returns a boolean.
func Bool(b bool) Value {
	if b {
		return Value{kind: KindBool, num: 1}
	}
	return Value{kind: KindBool}
}

// Ubyte returns a ubyte.
func Ubyte(n uint8) Value { return Value{kind: KindUbyte, num: uint64(n)} }

// Ushort returns a ushort.
func Ushort(n uint16) Value { return Value{kind: KindUshort, num: uint64(n)} }

// Uint returns a uint.
func Uint(n uint32) Value { return Value{kind: KindUint, num: uint64(n)} }

// Ulong returns a ulong.
func Ulong(n uint64) Value { return Value{kind: KindUlong, num: n} }

// Byte returns a byte (8 bits, signed).
func Byte(n int8) Value { return Value{kind: KindByte, num: uint64(n)} }

// Short returns a short.
func Short(n int16) Value { return Value{kind: KindShort, num: uint64(n)} }

// Int returns an int (32 bits, signed).
func Int(n int32) Value { return Value{kind: KindInt, num: uint64(n)} }

// Long returns a long.
func Long(n int64) Value { return Value{kind: KindLong, num: uint64(n)} }

// Float returns a float.
func Float(f float32) Value { return Value{kind: KindFloat, num: uint64(math.Float32bits(f))} }

// Double returns a double.
func Double(f float64) Value { return Value{kind: KindDouble, num: math.Float64bits(f)} }

// Decimal32 returns a decimal32 of its four bytes, which are not interpreted.
func Decimal32(b [4]byte) Value { return Value{kind: KindDecimal32, str: string(b[:])} }

// Decimal64 returns a decimal64 of its eight bytes, which are not interpreted.
func Decimal64(b [8]byte) Value { return Value{kind: KindDecimal64, str: string(b[:])} }

// Decimal128 returns a decimal128 of its sixteen bytes, which are not
// interpreted.
func Decimal128(b [16]byte) Value { return Value{kind: KindDecimal128, str: string(b[:])} }

// Char returns a char.
func Char(r rune) Value { return Value{kind: KindChar, num: uint64(uint32(r))} }

// TimestampValue returns a timestamp.
func TimestampValue(t Timestamp) Value { return Value{kind: KindTimestamp, num: uint64(t)} }

// UUID returns a uuid.
func UUID(u [16]byte) Value { return Value{kind: KindUUID, str: string(u[:])} }

// Binary returns a binary with a copy of b.
func Binary(b []byte) Value { return Value{kind: KindBinary, str: string(b)} }

// String returns a string.
func String(s string) Value { return Value{kind: KindString, str: s} }

// Symbol returns a symbol.
func Symbol(s string) Value { return Value{kind: KindSymbol, str: s} }

// List returns a list, which keeps items.
func List(items ...Value) Value {
	if len(items) == 0 {
		items = nil
	}
	return Value{kind: KindList, items: items}
}

// Described returns a described value.
func Described(descriptor, v Value) Value {
	return Value{kind: KindDescribed, items: []Value{descriptor, v}}
}

// EmptyArray returns an array without elements, of the given element type. An
// empty array of described values does not exist; it becomes one of null.
func EmptyArray(k Kind) Value {
	if k >= KindDescribed {
		k = KindNull
	}
	return Value{kind: KindArray, num: uint64(k)}
}

// Array returns an array, which keeps items. All must have one type, and
// described ones the same descriptor; otherwise the result is a list, for such
// an array does not exist. Without items it is an array of null.
func Array(items ...Value) Value {
	v := Value{kind: KindArray, items: items}
	for i := 1; i < len(items); i++ {
		if !sameElementType(items[0], items[i]) {
			v.kind = KindList
			return v
		}
	}
	return v
}

// Symbols returns an array of symbols.
func Symbols(names ...string) Value {
	if len(names) == 0 {
		return EmptyArray(KindSymbol)
	}
	items := make([]Value, len(names))
	for i, n := range names {
		items[i] = Symbol(n)
	}
	return Value{kind: KindArray, items: items}
}

// sameElementType tells whether a and b can be elements of one array.
func sameElementType(a, b Value) bool {
	if a.kind != b.kind {
		return false
	}
	if a.kind == KindDescribed {
		return a.items[0].Equal(b.items[0]) && sameElementType(a.items[1], b.items[1])
	}
	return true
}

// Kind returns the type of v.
func (v Value) Kind() Kind { return v.kind }

// IsNull tells whether v is null.
func (v Value) IsNull() bool { return v.kind == KindNull }

// Bool returns the value of a boolean; ok is false for any other type.
func (v Value) Bool() (b, ok bool) { return v.num != 0, v.kind == KindBool }

// Int64 returns the value of any integer type or timestamp, if it fits.
func (v Value) Int64() (n int64, ok bool) {
	switch v.kind {
	case KindUbyte, KindUshort, KindUint, KindByte, KindShort, KindInt, KindLong, KindTimestamp:
		return int64(v.num), true
	case KindUlong:
		return int64(v.num), v.num <= math.MaxInt64
	}
	return 0, false
}

// Uint64 returns the value of any integer type, if it is not negative.
func (v Value) Uint64() (n uint64, ok bool) {
	switch v.kind {
	case KindUbyte, KindUshort, KindUint, KindUlong:
		return v.num, true
	case KindByte, KindShort, KindInt, KindLong:
		return v.num, int64(v.num) >= 0
	}
	return 0, false
}

// Float64 returns the value of a float or double.
func (v Value) Float64() (f float64, ok bool) {
	switch v.kind {
	case KindFloat:
		return float64(math.Float32frombits(uint32(v.num))), true
	case KindDouble:
		return math.Float64frombits(v.num), true
	}
	return 0, false
}

// Char returns the value of a char.
func (v Value) Char() (r rune, ok bool) { return rune(uint32(v.num)), v.kind == KindChar }

// Timestamp returns the value of a timestamp.
func (v Value) Timestamp() (t Timestamp, ok bool) {
	return Timestamp(v.num), v.kind == KindTimestamp
}

// UUID returns the value of a uuid.
func (v Value) UUID() (u [16]byte, ok bool) {
	if v.kind != KindUUID {
		return u, false
	}
	copy(u[:], v.str)
	return u, true
}

// Text returns the value of a string or symbol.
func (v Value) Text() (s string, ok bool) {
	if v.kind == KindString || v.kind == KindSymbol {
		return v.str, true
	}
	return "", false
}

// Bytes returns a copy of the bytes of a binary or decimal.
func (v Value) Bytes() (b []byte, ok bool) {
	switch v.kind {
	case KindBinary, KindDecimal32, KindDecimal64, KindDecimal128:
		return []byte(v.str), true
	}
	return nil, false
}

// Items returns the elements of a list or array, which the caller must not
// change; nil for other types.
func (v Value) Items() []Value {
	if v.kind == KindList || v.kind == KindArray {
		return v.items
	}
	return nil
}

// Map returns the pairs of a map; nil for other types.
func (v Value) Map() Map {
	if v.kind != KindMap {
		return nil
	}
	m := make(Map, 0, len(v.items)/2)
	for i := 0; i+1 < len(v.items); i += 2 {
		m = append(m, Pair{v.items[i], v.items[i+1]})
	}
	return m
}

// Described returns descriptor and value of a described value.
func (v Value) Described() (descriptor, value Value, ok bool) {
	if v.kind != KindDescribed {
		return Value{}, Value{}, false
	}
	return v.items[0], v.items[1], true
}

// Equal tells whether v and w have the same type and contents. Floating point
// numbers are compared bit by bit.
func (v Value) Equal(w Value) bool {
	if v.kind != w.kind || v.num != w.num || v.str != w.str || len(v.items) != len(w.items) {
		return false
	}
	for i := range v.items {
		if !v.items[i].Equal(w.items[i]) {
			return false
		}
	}
	return true
}

// String returns the value as text: scalars as one would write them, a uuid in
// its canonical form, a binary as the bytes are. Compound values show only
// their type and size.
func (v Value) String() string {
	switch v.kind {
	case KindNull:
		return "null"
	case KindBool:
		return strconv.FormatBool(v.num != 0)
	case KindUbyte, KindUshort, KindUint, KindUlong:
		return strconv.FormatUint(v.num, 10)
	case KindByte, KindShort, KindInt, KindLong:
		return strconv.FormatInt(int64(v.num), 10)
	case KindFloat:
		return strconv.FormatFloat(float64(math.Float32frombits(uint32(v.num))), 'g', -1, 32)
	case KindDouble:
		return strconv.FormatFloat(math.Float64frombits(v.num), 'g', -1, 64)
	case KindChar:
		return string(rune(uint32(v.num)))
	case KindTimestamp:
		return Timestamp(v.num).Time().Format(time.RFC3339Nano)
	case KindUUID:
		h := hex.EncodeToString([]byte(v.str))
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	case KindBinary, KindString, KindSymbol:
		return v.str
	case KindDecimal32, KindDecimal64, KindDecimal128:
		return hex.EncodeToString([]byte(v.str))
	case KindMap:
		return "map of " + strconv.Itoa(len(v.items)/2)
	case KindDescribed:
		return v.items[0].String() + ":" + v.items[1].String()
	}
	return v.kind.String() + " of " + strconv.Itoa(len(v.items))
}

// Timestamp is a point in time as AMQP has it: milliseconds since 1970 UTC.
type Timestamp int64

// TimestampOf returns t, cut to milliseconds.
func TimestampOf(t time.Time) Timestamp { return Timestamp(t.UnixMilli()) }

// Time returns t in UTC.
func (t Timestamp) Time() time.Time { return time.UnixMilli(int64(t)).UTC() }

// Opt is a field that may be absent (null).
type Opt[T any] struct {
	V   T
	Set bool
}

// Some returns a field that is present.
func Some[T any](v T) Opt[T] { return Opt[T]{v, true} }

// Or returns the field, or def when it is absent.
func (o Opt[T]) Or(def T) T {
	if o.Set {
		return o.V
	}
	return def
}

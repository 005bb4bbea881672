package wire

import "encoding/binary"

// listWriter writes the fields of a described list and leaves out the null
// fields at its end.
type listWriter struct {
	b     []byte
	start int
	count int // fields written
	kept  int // fields up to the last one that is not null
	end   int // where that one ends
}

// beginList appends a descriptor and opens its list.
func beginList(b []byte, code byte) listWriter {
	b = append(b, 0, 0x53, code, 0xc0, 0, 0)
	return listWriter{b: b, start: len(b) - 3, end: len(b)}
}

func (w *listWriter) finish() []byte { return endCompound(w.b[:w.end], w.start, w.kept) }

func (w *listWriter) null() { w.count++; w.b = append(w.b, 0x40) }

func (w *listWriter) wrote(b []byte) {
	w.count++
	w.b, w.kept, w.end = b, w.count, len(b)
}

func (w *listWriter) value(v Value) {
	if v.IsNull() {
		w.null()
		return
	}
	w.wrote(AppendValue(w.b, v))
}

// bool writes a boolean whose default is false.
func (w *listWriter) bool(v bool) {
	if !v {
		w.null()
		return
	}
	w.wrote(appendBool(w.b, v))
}

func (w *listWriter) u8(v, def uint8) {
	if v == def {
		w.null()
		return
	}
	w.wrote(append(w.b, 0x50, v))
}

func (w *listWriter) u32(v uint32) { w.wrote(appendUint(w.b, v)) }

func (w *listWriter) u32Default(v, def uint32) {
	if v == def {
		w.null()
		return
	}
	w.u32(v)
}

func (w *listWriter) optU32(o Opt[uint32]) {
	if !o.Set {
		w.null()
		return
	}
	w.u32(o.V)
}

func (w *listWriter) u16(v uint16) { w.wrote(append(w.b, 0x60, byte(v>>8), byte(v))) }

func (w *listWriter) u64(v uint64) {
	if v == 0 {
		w.null()
		return
	}
	w.wrote(appendUlong(w.b, v))
}

func (w *listWriter) optTime(o Opt[Timestamp]) {
	if !o.Set {
		w.null()
		return
	}
	w.wrote(binary.BigEndian.AppendUint64(append(w.b, 0x83), uint64(o.V)))
}

// text writes a string, symbol writes a symbol; "" is null.
func (w *listWriter) text(s string) {
	if s == "" {
		w.null()
		return
	}
	w.wrote(appendVar(w.b, 0xa1, s))
}

func (w *listWriter) symbol(s string) {
	if s == "" {
		w.null()
		return
	}
	w.wrote(appendVar(w.b, 0xa3, s))
}

func (w *listWriter) bytes(p []byte) {
	if p == nil {
		w.null()
		return
	}
	w.wrote(appendVar(w.b, 0xa0, p))
}

func (w *listWriter) symbols(names []string) {
	if len(names) == 0 {
		w.null()
		return
	}
	w.wrote(AppendValue(w.b, Symbols(names...)))
}

func (w *listWriter) mapping(m Map) {
	if len(m) == 0 {
		w.null()
		return
	}
	w.wrote(AppendMap(w.b, m))
}

func (w *listWriter) state(s *State) {
	if s.Code == StateNone {
		w.null()
		return
	}
	w.wrote(appendState(w.b, s))
}

func (w *listWriter) err(e *Error) {
	if e == nil {
		w.null()
		return
	}
	w.wrote(appendError(w.b, e))
}

// fields reads the fields of a list. Fields that the peer left out count as
// null.
type fields struct {
	*reader
	n   int // fields left
	end int
}

// list opens the list that comes next.
func (r *reader) list() fields {
	switch c := r.u8(); c {
	case 0x45:
		r.enter()
		return fields{r, 0, r.off}
	case 0xc0, 0xd0:
		if !r.enter() {
			return fields{r, 0, r.off}
		}
		n, end := r.compound(c == 0xd0, 1)
		r.elements -= n // fields are not values that are kept
		return fields{r, n, end}
	default:
		r.fail("constructor 0x%02x instead of a list", c)
		return fields{r, 0, r.off}
	}
}

// close passes over fields that are not known here.
func (f *fields) close() {
	for ; f.n > 0 && f.reader.err == nil; f.n-- {
		f.skip()
	}
	f.closeCompound(f.end)
	f.leave()
}

// present tells whether the next field is there, and passes over a null.
func (f *fields) present() bool {
	if f.n == 0 || f.reader.err != nil {
		return false
	}
	f.n--
	if f.peek() == 0x40 {
		f.off++
		return false
	}
	return f.reader.err == nil
}

// bool reads a boolean whose default is false.
func (f *fields) bool() bool { return f.present() && f.boolValue() }

func (f *fields) boolValue() bool {
	switch c := f.reader.u8(); c {
	case 0x41:
		return true
	case 0x42:
		return false
	case 0x56:
		b, _ := f.boolean().Bool()
		return b
	default:
		f.fail("constructor 0x%02x instead of a boolean", c)
		return false
	}
}

func (f *fields) u8(def uint8) uint8 {
	if !f.present() {
		return def
	}
	return f.u8Value()
}

func (f *fields) u8Value() uint8 {
	if c := f.reader.u8(); c != 0x50 {
		f.fail("constructor 0x%02x instead of a ubyte", c)
	}
	return f.reader.u8()
}

func (f *fields) u16(def uint16) uint16 { return f.optU16().Or(def) }

func (f *fields) optU16() (o Opt[uint16]) {
	if !f.present() {
		return o
	}
	if c := f.reader.u8(); c != 0x60 {
		f.fail("constructor 0x%02x instead of a ushort", c)
	}
	return Some(f.reader.u16())
}

func (f *fields) u32(def uint32) uint32 { return f.optU32().Or(def) }

func (f *fields) optU32() (o Opt[uint32]) {
	if !f.present() {
		return o
	}
	switch c := f.reader.u8(); c {
	case 0x43:
		return Some(uint32(0))
	case 0x52:
		return Some(uint32(f.reader.u8()))
	case 0x70:
		return Some(f.reader.u32())
	default:
		f.fail("constructor 0x%02x instead of a uint", c)
		return o
	}
}

// needU32 reads a field that the standard demands.
func (f *fields) needU32(name string) uint32 {
	o := f.optU32()
	if !o.Set {
		f.fail("%s is missing", name)
	}
	return o.V
}

func (f *fields) u64() uint64 {
	if !f.present() {
		return 0
	}
	switch c := f.reader.u8(); c {
	case 0x44:
		return 0
	case 0x53:
		return uint64(f.reader.u8())
	case 0x80:
		return f.reader.u64()
	default:
		f.fail("constructor 0x%02x instead of a ulong", c)
		return 0
	}
}

func (f *fields) optTime() (o Opt[Timestamp]) {
	if !f.present() {
		return o
	}
	if c := f.reader.u8(); c != 0x83 {
		f.fail("constructor 0x%02x instead of a timestamp", c)
	}
	return Some(Timestamp(f.reader.u64()))
}

// text reads a string or symbol; peers mix them up.
func (f *fields) text() string {
	if !f.present() {
		return ""
	}
	switch c := f.reader.u8(); c {
	case 0xa1, 0xb1:
		return f.utf8(c == 0xb1)
	case 0xa3, 0xb3:
		return f.reader.text(f.length(c == 0xb3))
	default:
		f.fail("constructor 0x%02x instead of a string", c)
		return ""
	}
}

// bytes reads a binary, which aliases the input; a string counts too.
func (f *fields) bytes() []byte {
	if !f.present() {
		return nil
	}
	switch c := f.reader.u8(); c {
	case 0xa0, 0xa1:
		return f.take(f.length(false))
	case 0xb0, 0xb1:
		return f.take(f.length(true))
	default:
		f.fail("constructor 0x%02x instead of a binary", c)
		return nil
	}
}

// symbols reads one symbol or an array of them.
func (f *fields) symbols() []string {
	if !f.present() {
		return nil
	}
	v := f.value()
	if s, ok := v.Text(); ok {
		return []string{s}
	}
	if v.kind != KindArray {
		f.fail("%s instead of symbols", v.kind)
		return nil
	}
	names := make([]string, 0, len(v.items))
	for _, e := range v.items {
		s, ok := e.Text()
		if !ok {
			f.fail("%s instead of a symbol", e.kind)
			return nil
		}
		names = append(names, s)
	}
	return names
}

func (f *fields) any() Value {
	if !f.present() {
		return Value{}
	}
	return f.value()
}

func (f *fields) mapping() Map {
	if !f.present() {
		return nil
	}
	return f.reader.mapping()
}

func (f *fields) state() (s State) {
	if f.present() {
		f.readState(&s)
	}
	return s
}

func (f *fields) err() *Error {
	if !f.present() {
		return nil
	}
	return f.readError()
}

package route

import (
	"strconv"
	"strings"
	"unsafe"
)

// maxDepth is how deep a body may nest and still be queried; the original's JSON
// reader has the same limit.
const maxDepth = 64

// missing is what a path gives that leads to nothing: a null, except to is_null.
var missing = value{kind: kindNull, flag: true}

// scanner reads a JSON text (RFC 8259) once and keeps the values at the wanted
// paths; all else is only checked. Its recursion is bounded by maxDepth and its
// memory by the wanted strings.
type scanner struct {
	data  []byte
	pos   int
	slots []value
	key   []byte // decoded member name; valid until the next one is read
}

// scan fills slots with the values at the paths below root, if the text is a JSON
// object; otherwise it reports false and slots are worth nothing.
// Strings in slots may share the memory of data.
func (s *scanner) scan(root *pathNode) bool {
	fill(s.slots, missing)
	s.blanks()
	if s.pos >= len(s.data) || s.data[s.pos] != '{' || !s.value(root, 1) {
		return false
	}
	s.blanks()
	return s.pos == len(s.data)
}

func fill(slots []value, v value) {
	for i := range slots {
		slots[i] = v
	}
}

// value reads one value; n is nil if no path goes through here.
func (s *scanner) value(n *pathNode, depth int) bool {
	s.blanks()
	if s.pos >= len(s.data) {
		return false
	}
	switch c := s.data[s.pos]; c {
	case '{':
		n.set(s.slots, undefined)
		return depth <= maxDepth && s.object(n, depth)
	case '[':
		n.set(s.slots, undefined)
		return depth <= maxDepth && s.array(n, depth)
	case '"':
		return s.text(n)
	case 't':
		return s.word("true", n, boolean(true))
	case 'f':
		return s.word("false", n, boolean(false))
	case 'n':
		return s.word("null", n, nullValue)
	default:
		return s.number(n)
	}
}

// set stores the value of a member or item.
func (n *pathNode) set(slots []value, v value) {
	if n != nil && n.slot >= 0 {
		slots[n.slot] = v
	}
}

// scalar stores a value below which nothing can be: paths that go on are undefined.
func (n *pathNode) scalar(slots []value, v value) {
	if n != nil {
		fill(slots[n.first:n.last], undefined)
		n.set(slots, v)
	}
}

func (s *scanner) object(n *pathNode, depth int) bool {
	s.pos++
	if s.blanks(); s.take('}') {
		return true
	}
	for {
		s.blanks()
		var child *pathNode
		ok := false
		if n != nil && n.fields != nil {
			var key []byte
			key, ok = s.memberName()
			if child = n.fields[string(key)]; child != nil {
				fill(s.slots[child.first:child.last], missing) // the last of equal names counts
			}
		} else {
			_, _, ok = s.quoted()
		}
		if !ok {
			return false
		}
		if s.blanks(); !s.take(':') || !s.value(child, depth+1) {
			return false
		}
		s.blanks()
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func (s *scanner) array(n *pathNode, depth int) bool {
	s.pos++
	if s.blanks(); s.take(']') {
		return true
	}
	for i := 0; ; i++ {
		var child *pathNode
		if n != nil && n.items != nil {
			child = n.items[i]
		}
		if !s.value(child, depth+1) {
			return false
		}
		s.blanks()
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func (s *scanner) blanks() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) take(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) word(w string, n *pathNode, v value) bool {
	if len(s.data)-s.pos < len(w) || string(s.data[s.pos:s.pos+len(w)]) != w {
		return false
	}
	s.pos += len(w)
	n.scalar(s.slots, v)
	return true
}

// number reads -?(0|[1-9]d*)(.d+)?([eE][+-]?d+)?
func (s *scanner) number(n *pathNode) bool {
	start := s.pos
	s.take('-')
	if !s.take('0') && s.digits() == 0 {
		return false
	}
	if s.take('.') && s.digits() == 0 {
		return false
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if s.digits() == 0 {
			return false
		}
	}
	if n == nil {
		return true
	}
	f, err := strconv.ParseFloat(view(s.data[start:s.pos]), 64)
	if err != nil && !isRange(err) {
		return false
	}
	n.scalar(s.slots, number(f))
	return true
}

func (s *scanner) digits() int {
	start := s.pos
	for s.pos < len(s.data) && isDigit(s.data[s.pos]) {
		s.pos++
	}
	return s.pos - start
}

func (s *scanner) text(n *pathNode) bool {
	raw, escaped, ok := s.quoted()
	if !ok || n == nil {
		return ok
	}
	str := view(raw)
	if escaped {
		str = string(appendUnquoted(nil, raw))
	}
	v := text(str)
	if looksLikeDate(str) {
		v = undefined // a date has no type in the language
	}
	n.scalar(s.slots, v)
	return true
}

// memberName reads a string into s.key.
func (s *scanner) memberName() ([]byte, bool) {
	raw, escaped, ok := s.quoted()
	if !escaped {
		return raw, ok
	}
	s.key = appendUnquoted(s.key[:0], raw)
	return s.key, ok
}

// quoted checks a string and returns what stands between its quotes.
func (s *scanner) quoted() (raw []byte, escaped, ok bool) {
	if !s.take('"') {
		return nil, false, false
	}
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start : s.pos-1], escaped, true
		case c == '\\':
			n := jsonEscapeLength(s.data[s.pos:])
			if n == 0 {
				return nil, false, false
			}
			escaped = true
			s.pos += n
		case c < ' ':
			return nil, false, false
		default:
			s.pos++
		}
	}
	return nil, false, false
}

func jsonEscapeLength(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	if strings.IndexByte(`"\/bfnrt`, b[1]) >= 0 {
		return 2
	}
	if b[1] == 'u' && len(b) >= 6 && countWhile(view(b[2:6]), isHexDigit) == 4 {
		return 6
	}
	return 0
}

var jsonEscapes = map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// appendUnquoted decodes the escapes of a checked string.
func appendUnquoted(b, raw []byte) []byte {
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			b = append(b, raw[i])
			i++
			continue
		}
		c := raw[i+1]
		if c == 'u' {
			b = appendUnit(b, hexRune(view(raw[i+2:i+6])))
			i += 6
			continue
		}
		if plain, ok := jsonEscapes[c]; ok {
			c = plain
		}
		b = append(b, c)
		i += 2
	}
	return b
}

// view reads bytes as a string without a copy. Bodies do not change once a message
// was handed over, and no value outlives the evaluation.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

package route

import (
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Strings of the language are sequences of UTF-16 code units, as in the original:
// lengths, positions and order count units. They are kept as UTF-8 in which a
// surrogate without partner, possible after \ud800 or substring, takes three bytes
// as if it were a character (WTF-8). A byte that is no part of a character counts
// as one unit, U+FFFD.

const (
	surrogateMin = 0xd800
	surrogateLow = 0xdc00
	surrogateMax = 0xdfff
)

// decode returns the first character of s, which may be a lone surrogate, and its
// length in bytes. s must not be empty.
func decode(s string) (rune, int) {
	if s[0] < utf8.RuneSelf {
		return rune(s[0]), 1
	}
	r, n := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && n == 1 && len(s) >= 3 && s[0] == 0xed && s[1]&0xe0 == 0xa0 && s[2]&0xc0 == 0x80 {
		return surrogateMin | rune(s[1]&0x1f)<<6 | rune(s[2]&0x3f), 3
	}
	return r, n
}

// appendUnit appends one UTF-16 code unit, joining it with a high surrogate at the
// end of b if that makes a character.
func appendUnit(b []byte, unit rune) []byte {
	if unit < surrogateMin || unit > surrogateMax {
		return utf8.AppendRune(b, unit)
	}
	if unit >= surrogateLow && len(b) >= 3 {
		if high, n := decode(string(b[len(b)-3:])); n == 3 && surrogateMin <= high && high < surrogateLow {
			return utf8.AppendRune(b[:len(b)-3], utf16.DecodeRune(high, unit))
		}
	}
	return append(b, 0xe0|byte(unit>>12), 0x80|byte(unit>>6)&0xbf, 0x80|byte(unit)&0xbf)
}

// splitsCharacter tells whether a ends with the first half of a character and b
// starts with its second half.
func splitsCharacter(a, b string) bool {
	if len(a) < 3 || len(b) < 3 || a[len(a)-3] != 0xed || b[0] != 0xed {
		return false
	}
	high, _ := decode(a[len(a)-3:])
	low, _ := decode(b)
	return surrogateMin <= high && high < surrogateLow && surrogateLow <= low && low <= surrogateMax
}

// join concatenates two strings; halves of a character that meet become one.
func join(a, b string) string {
	if !splitsCharacter(a, b) {
		return a + b
	}
	low, n := decode(b)
	return string(appendUnit([]byte(a), low)) + b[n:]
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func unitsOf(r rune) int {
	if r >= 0x10000 {
		return 2
	}
	return 1
}

// textLength counts the UTF-16 code units of s.
func textLength(s string) int {
	n := 0
	for i := 0; i < len(s); {
		r, size := decode(s[i:])
		n += unitsOf(r)
		i += size
	}
	return n
}

// slice returns the units from start to end, which lie within s.
func slice(s string, start, end int) string {
	if isASCII(s) {
		return s[start:end]
	}
	var b []byte
	unit := 0
	for i := 0; i < len(s) && unit < end; {
		r, size := decode(s[i:])
		if unitsOf(r) == 1 {
			if unit >= start {
				b = append(b, s[i:i+size]...)
			}
			unit++
		} else {
			high, low := utf16.EncodeRune(r)
			if unit >= start {
				b = appendUnit(b, high)
			}
			if unit+1 >= start && unit+1 < end {
				b = appendUnit(b, low)
			}
			unit += 2
		}
		i += size
	}
	return string(b)
}

// compareText orders by code unit: -1, 0 or 1. It differs from the order of bytes
// where characters beyond U+FFFF meet those from U+E000.
func compareText(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if i == n || a[i] < utf8.RuneSelf && b[i] < utf8.RuneSelf {
		return strings.Compare(a, b)
	}
	for back := 0; i > 0 && back < utf8.UTFMax-1 && !utf8.RuneStart(a[i]); back++ {
		i--
	}
	ra, _ := decode(a[i:])
	rb, _ := decode(b[i:])
	ua, ub := firstUnit(ra), firstUnit(rb)
	if ua == ub {
		return strings.Compare(unitText(a[i:]), unitText(b[i:]))
	}
	return int(ua) - int(ub)
}

func firstUnit(r rune) rune {
	if r >= 0x10000 {
		high, _ := utf16.EncodeRune(r)
		return high
	}
	return r
}

// unitText rewrites s so that every code unit is a character of its own, in the
// same order: everything from U+D800 moves up by one plane.
func unitText(s string) string {
	b := make([]byte, 0, len(s)+len(s)/4)
	for i := 0; i < len(s); {
		r, size := decode(s[i:])
		if r >= 0x10000 {
			high, low := utf16.EncodeRune(r)
			b = utf8.AppendRune(utf8.AppendRune(b, unitRune(high)), unitRune(low))
		} else {
			b = utf8.AppendRune(b, unitRune(r))
		}
		i += size
	}
	return string(b)
}

// unitRune keeps the order of units: those from U+E000 must stay above surrogates.
func unitRune(unit rune) rune {
	if unit >= surrogateMin {
		return 0x10000 + unit
	}
	return unit
}

// hasHalf tells whether s holds a surrogate without partner; only then may units
// match where bytes do not.
func hasHalf(s string) bool {
	for i := strings.IndexByte(s, 0xed); i >= 0 && i < len(s); i++ {
		if s[i] == 0xed {
			if r, _ := decode(s[i:]); surrogateMin <= r && r <= surrogateMax {
				return true
			}
		}
	}
	return false
}

// indexText returns the position of t in s in code units, or -1.
func indexText(s, t string) int {
	if hasHalf(t) {
		s, t = unitText(s), unitText(t)
		i := strings.Index(s, t)
		if i < 0 {
			return -1
		}
		return utf8.RuneCountInString(s[:i])
	}
	i := strings.Index(s, t)
	if i < 0 {
		return -1
	}
	return textLength(s[:i])
}

func hasPrefix(s, t string) bool {
	if hasHalf(t) {
		return strings.HasPrefix(unitText(s), unitText(t))
	}
	return strings.HasPrefix(s, t)
}

func hasSuffix(s, t string) bool {
	if hasHalf(t) {
		return strings.HasSuffix(unitText(s), unitText(t))
	}
	return strings.HasSuffix(s, t)
}

// lower and upper map character by character, as the invariant culture does: the
// dotted capital I and the dotless small i stand for themselves.
func lower(s string) string { return mapText(s, strings.ToLower, unicode.ToLower, 'İ') }

func upper(s string) string { return mapText(s, strings.ToUpper, unicode.ToUpper, 'ı') }

func mapText(s string, ascii func(string) string, fold func(rune) rune, keep rune) string {
	if isASCII(s) {
		return ascii(s)
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		r, size := decode(s[i:])
		if r == keep || r == utf8.RuneError || surrogateMin <= r && r <= surrogateMax {
			b = append(b, s[i:i+size]...)
		} else {
			b = utf8.AppendRune(b, fold(r))
		}
		i += size
	}
	return string(b)
}

// unescape decodes the inside of a string literal whose escapes are known to be
// well formed.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			b = append(b, s[i])
			i++
			continue
		}
		n := escapeLength(s[i:])
		if n == 6 {
			b = appendUnit(b, hexRune(s[i+2:i+6]))
		} else {
			b = append(b, s[i+1])
		}
		i += n
	}
	return string(b)
}

// hexRune reads hexadecimal digits that are known to be such.
func hexRune(s string) rune {
	var r rune
	for i := range len(s) {
		c := s[i]
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		default:
			r = r<<4 | rune(c|0x20-'a'+10)
		}
	}
	return r
}

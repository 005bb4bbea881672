package route

import (
	"errors"
	"strconv"
	"strings"
)

// parseNumber reads a number as as_number does, with everything that the invariant
// culture allows: blanks around, a sign before or after, parentheses for negative,
// the general currency sign, thousands commas, a decimal point, an exponent, and
// the words Infinity and NaN.
//
//	blanks ( sign | "(" | "¤" )* digits [ "," digits ]* [ "." digits ] [ e±digits ] ( blanks | sign | ")" | "¤" )*
func parseNumber(s string) (float64, bool) {
	if f, ok := parseDecimal(s); ok {
		return f, true
	}
	return parseWord(strings.TrimSpace(s))
}

func parseWord(s string) (float64, bool) {
	sign := ""
	if s != "" && (s[0] == '+' || s[0] == '-') {
		sign, s = s[:1], s[1:]
	}
	if !strings.EqualFold(s, "Infinity") && !strings.EqualFold(s, "NaN") {
		return 0, false
	}
	f, err := strconv.ParseFloat(sign+s, 64)
	if err != nil { // a signed NaN
		f, err = strconv.ParseFloat(s, 64)
	}
	return f, err == nil
}

const currencySign = "¤"

// decimalReader holds what may appear only once in a decimal.
type decimalReader struct {
	rest                          string
	signed, negative, open, money bool
}

func parseDecimal(s string) (float64, bool) {
	r := decimalReader{rest: s}
	r.prefix()
	var digits []byte
	var buffer [40]byte
	digits = r.digits(buffer[:0])
	if len(digits) == 0 {
		return 0, false
	}
	digits = r.exponent(digits)
	r.suffix()
	if r.open || strings.Trim(r.rest, "\x00") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(digits), 64)
	if err != nil && !isRange(err) {
		return 0, false
	}
	if r.negative {
		f = -f
	}
	return f, true
}

func isRange(err error) bool { return errors.Is(err, strconv.ErrRange) }

func isBlank(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// prefix reads what stands before the digits. Blanks may not follow a sign, unless
// a currency sign was seen.
func (r *decimalReader) prefix() {
	for r.rest != "" {
		c := r.rest[0]
		switch {
		case isBlank(c) && (!r.signed || r.money):
			r.rest = r.rest[1:]
		case r.takeSign():
		case c == '(' && !r.signed:
			r.signed, r.open, r.negative = true, true, true
			r.rest = r.rest[1:]
		case r.takeCurrency():
		default:
			return
		}
	}
}

func (r *decimalReader) suffix() {
	for r.rest != "" {
		switch {
		case isBlank(r.rest[0]):
			r.rest = r.rest[1:]
		case r.takeSign():
		case r.rest[0] == ')' && r.open:
			r.open = false
			r.rest = r.rest[1:]
		case r.takeCurrency():
		default:
			return
		}
	}
}

func (r *decimalReader) takeSign() bool {
	if r.signed || r.rest[0] != '+' && r.rest[0] != '-' {
		return false
	}
	r.signed, r.negative = true, r.rest[0] == '-'
	r.rest = r.rest[1:]
	return true
}

func (r *decimalReader) takeCurrency() bool {
	if r.money || !strings.HasPrefix(r.rest, currencySign) {
		return false
	}
	r.money = true
	r.rest = r.rest[len(currencySign):]
	return true
}

// digits appends digits and the decimal point; nothing if there is no digit.
func (r *decimalReader) digits(b []byte) []byte {
	seen, point := false, false
	i := 0
loop:
	for ; i < len(r.rest); i++ {
		c := r.rest[i]
		switch {
		case isDigit(c):
			seen = true
			b = append(b, c)
		case c == '.' && !point:
			point = true
			b = append(b, c)
		case c == ',' && seen && !point:
		default:
			break loop
		}
	}
	r.rest = r.rest[i:]
	if !seen {
		return nil
	}
	return b
}

// exponent appends an exponent if a complete one follows.
func (r *decimalReader) exponent(b []byte) []byte {
	s := r.rest
	if s == "" || s[0] != 'e' && s[0] != 'E' {
		return b
	}
	n := 1
	if n < len(s) && (s[n] == '+' || s[n] == '-') {
		n++
	}
	digits := countWhile(s[n:], isDigit)
	if digits == 0 {
		return b
	}
	r.rest = s[n+digits:]
	return append(b, s[:n+digits]...)
}

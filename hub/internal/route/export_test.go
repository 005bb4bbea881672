package route

// Compare, Slice, Index and Length give tests the string operations.
func Compare(a, b string) int               { return compareText(a, b) }
func Slice(s string, start, end int) string { return slice(s, start, end) }
func Index(s, t string) int                 { return indexText(s, t) }
func Length(s string) int                   { return textLength(s) }
func Join(a, b string) string               { return join(a, b) }

// UnitString makes a string of code units.
func UnitString(units []uint16) string {
	var b []byte
	for _, u := range units {
		b = appendUnit(b, rune(u))
	}
	return string(b)
}

package route

import (
	"strings"
	"time"
)

// looksLikeDate tells whether the original's JSON reader turns a string into a
// date: yyyy-MM-ddTHH:mm:ss with up to seven digits of fraction and a zone, or
// /Date(milliseconds)/. Dates have no type in the language, so such a string
// cannot be queried.
func looksLikeDate(s string) bool {
	if strings.HasPrefix(s, "/Date(") && strings.HasSuffix(s, ")/") && len(s) >= 9 {
		return isTicks(s[len("/Date(") : len(s)-len(")/")])
	}
	if len(s) < 19 || len(s) > 40 || !isDigit(s[0]) || s[10] != 'T' {
		return false
	}
	return isDay(s[:10]) && isTime(s[11:])
}

// isTicks reads -?d+ and an optional zone ±hhmm.
func isTicks(s string) bool {
	s = strings.TrimPrefix(s, "-")
	n := countWhile(s, isDigit)
	zone := s[n:]
	return n > 0 && (zone == "" || (zone[0] == '+' || zone[0] == '-') && countWhile(zone[1:], isDigit) == len(zone)-1)
}

// isDay checks yyyy-MM-dd.
func isDay(s string) bool {
	if s[4] != '-' || s[7] != '-' || !allDigits(s[:4]) || !allDigits(s[5:7]) || !allDigits(s[8:10]) {
		return false
	}
	_, err := time.Parse(time.DateOnly, s)
	return err == nil && s[:4] != "0000"
}

// isTime checks HH:mm:ss, fraction and zone. 24:00:00 is the end of the day.
func isTime(s string) bool {
	if len(s) < 8 || s[2] != ':' || s[5] != ':' || !allDigits(s[:2]) || !allDigits(s[3:5]) || !allDigits(s[6:8]) {
		return false
	}
	clock, rest := s[:8], s[8:]
	if clock[:2] > "24" || clock[3:5] > "59" || clock[6:8] > "59" || clock[:2] == "24" && clock != "24:00:00" {
		return false
	}
	if strings.HasPrefix(rest, ".") {
		n := min(countWhile(rest[1:], isDigit), 7)
		if n == 0 || clock[:2] == "24" && strings.Trim(rest[1:1+n], "0") != "" {
			return false
		}
		rest = rest[1+n:]
	}
	return isZone(rest)
}

// isZone checks nothing, Z, ±hh, ±hhmm or ±hh:mm.
func isZone(s string) bool {
	switch {
	case s == "", s == "Z", s == "z":
		return true
	case s[0] != '+' && s[0] != '-':
		return false
	}
	s = s[1:]
	return len(s) == 2 && allDigits(s) ||
		len(s) == 4 && allDigits(s) ||
		len(s) == 5 && s[2] == ':' && allDigits(s[:2]) && allDigits(s[3:])
}

func allDigits(s string) bool { return countWhile(s, isDigit) == len(s) }

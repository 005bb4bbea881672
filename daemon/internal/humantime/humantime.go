// Package humantime reads durations as people write them: "1 day 2 hours", "90m".
package humantime

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// units by name, without a plural's "s".
var units = map[string]time.Duration{
	"ns": time.Nanosecond, "nsec": time.Nanosecond, "us": time.Microsecond, "usec": time.Microsecond,
	"ms": time.Millisecond, "msec": time.Millisecond,
	"s": time.Second, "sec": time.Second, "second": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour,
}

// Parse reads numbers with units, with or without spaces between, and adds them.
// Empty text is zero.
func Parse(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is no duration such as \"1 day 2 hours\"", s)
	var total time.Duration
	for rest := s; rest != ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		if err != nil {
			return 0, bad
		}
		rest = strings.TrimLeft(rest[digits:], " ")
		letters := len(rest) - len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz"))
		name := rest[:letters]
		unit, ok := units[name]
		if !ok {
			unit, ok = units[strings.TrimSuffix(name, "s")]
		}
		if !ok || n > int64(1<<62)/int64(unit) || total > 1<<62-time.Duration(n)*unit {
			return 0, bad
		}
		total += time.Duration(n) * unit
		rest = strings.TrimLeft(rest[letters:], " ")
	}
	return total, nil
}

package settings

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const maxSpan = 3650 * 24 * time.Hour

// span reads a duration in the form of .NET's TimeSpan.
func (r *reader) span(name string, def, low time.Duration) time.Duration {
	text := r.text(name, "")
	if text == "" {
		return def
	}
	d, err := parseSpan(text)
	if err != nil || d < low || d > maxSpan {
		r.fail(name, "must be a time of at least %v as [days.]hh:mm:ss, not %q", low, text)
		return def
	}
	return d
}

// parseSpan reads days, [days.]hh:mm[:ss[.fraction]].
func parseSpan(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is no time span", s)
	days, clock := "0", s
	if !strings.Contains(s, ":") {
		days, clock = s, "0:0"
	} else if d, rest, ok := strings.Cut(s, "."); ok && strings.Contains(rest, ":") {
		days, clock = d, rest
	}
	clock, fraction, _ := strings.Cut(clock, ".")
	parts := strings.Split(clock, ":")
	if len(parts) < 2 || len(parts) > 3 || fraction != "" && len(parts) < 3 {
		return 0, bad
	}
	var total time.Duration
	for i, limit := range []struct {
		unit time.Duration
		max  uint64
	}{{time.Hour, 23}, {time.Minute, 59}, {time.Second, 59}}[:len(parts)] {
		n, err := strconv.ParseUint(parts[i], 10, 31)
		if err != nil || n > limit.max {
			return 0, bad
		}
		total += time.Duration(n) * limit.unit
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, bad
	}
	total += time.Duration(n) * 24 * time.Hour
	if fraction != "" {
		f, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 63)
		if err != nil {
			return 0, bad
		}
		total += time.Duration(f)
	}
	return total, nil
}

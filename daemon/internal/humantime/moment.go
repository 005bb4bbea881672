package humantime

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Moment reads a point in time: RFC 3339, Unix seconds, or how long ago ("1h",
// "1 day 2 hours"). Empty is the zero time.
func Moment(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 0 || n > 1<<40 {
			return time.Time{}, fmt.Errorf("%q is out of range", s)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	d, err := Parse(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is no time: want RFC 3339, Unix seconds or a duration such as \"1 day 2 hours\"", s)
	}
	return now.Add(-d), nil
}

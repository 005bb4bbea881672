package humantime_test

import (
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/humantime"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func TestMoments(t *testing.T) {
	for _, c := range []struct {
		text string
		want time.Time
		bad  bool
	}{
		{text: "", want: time.Time{}},
		{text: "2026-05-01T00:00:00Z", want: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)},
		{text: "2026-05-01T02:00:00.5+02:00", want: time.Date(2026, 5, 1, 0, 0, 0, 5e8, time.UTC)},
		{text: "1700000000", want: time.Unix(1700000000, 0)},
		{text: "1h", want: now.Add(-time.Hour)},
		{text: "90m", want: now.Add(-90 * time.Minute)},
		{text: "1h30m", want: now.Add(-90 * time.Minute)},
		{text: "1 day 2 hours", want: now.Add(-26 * time.Hour)},
		{text: " 2 weeks ", want: now.Add(-14 * 24 * time.Hour)},
		{text: "10 min 5sec", want: now.Add(-605 * time.Second)},
		{text: "-1", bad: true},
		{text: "99999999999999999999", bad: true},
		{text: "1 fortnight", bad: true},
		{text: "hour", bad: true},
		{text: "1h x", bad: true},
		{text: "9000000000 weeks", bad: true},
		{text: "4611686018427387904ns 4611686018427387904ns", bad: true},
	} {
		got, err := humantime.Moment(c.text, now)
		if (err != nil) != c.bad || err == nil && !got.Equal(c.want) {
			t.Errorf("%q: %v, %v", c.text, got, err)
		}
	}
}

func FuzzMoment(f *testing.F) {
	for _, s := range []string{"1h30m", "1 day 2 hours", "1700000000", "2026-05-01T00:00:00Z", "1 w"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := humantime.Moment(s, now)
		if err != nil && !got.IsZero() {
			t.Fatalf("%q: both %v and %v", s, got, err)
		}
	})
}

package humantime_test

import (
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/humantime"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "1h": time.Hour, "1 day 2 hours": 26 * time.Hour, "90m": 90 * time.Minute, "2w3d": 17 * 24 * time.Hour,
		"5 msec": 5 * time.Millisecond, "7days": 7 * 24 * time.Hour, "1s 1sec 1second": 3 * time.Second,
	} {
		if got, err := humantime.Parse(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"h", "1", "1 fortnight", "-1h", "1.5h", "1h,", "9223372036854775807w", "99999999999999999999s", "146000000h 146000000h 146000000h 146000000h 146000000h 146000000h 146000000h 146000000h 146000000h"} {
		if got, err := humantime.Parse(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1 day 2 hours")
	f.Add("9999999999h")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := humantime.Parse(s); err == nil && d < 0 {
			t.Fatalf("%q: %v", s, d)
		}
	})
}

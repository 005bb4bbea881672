package settings_test

import (
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/settings"
)

func TestTimeSpans(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"00:05:00": 5 * time.Minute, "0:0:30": 30 * time.Second, "01:30": 90 * time.Minute, "1.00:00:00": 24 * time.Hour,
		"2.03:04:05.5": 51*time.Hour + 4*time.Minute + 5500*time.Millisecond, "7": 7 * 24 * time.Hour,
	} {
		if s, err := settings.Parse(append([]string{"PerformanceMetricsUpdateFrequency=" + text}, base...)); err != nil || s.Metrics.Update != want {
			t.Errorf("%s: %v, %v; want %v", text, s.Metrics.Update, err, want)
		}
	}
	for _, text := range []string{"1h", "24:00:00", "00:60:00", "00:00:60", "-1", "1.5", "1:2:3:4", "00:00:00", "99999", ":"} {
		if _, err := settings.Parse(append([]string{"PerformanceMetricsUpdateFrequency=" + text}, base...)); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

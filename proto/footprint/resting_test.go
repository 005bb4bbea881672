package footprint

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestTrimsWhenTheProgramRests(t *testing.T) {
	type usage struct {
		from  time.Duration // since the start
		share float64       // of a processor
	}
	const s, m = time.Second, time.Minute
	tests := []struct {
		name  string
		usage []usage
		want  []time.Duration
	}{
		{"once after the start", []usage{{0, 0.02}, {5 * s, 0.0001}}, []time.Duration{30 * s}},
		{"a long start", []usage{{0, 0.9}, {50 * s, 0.0001}}, []time.Duration{75 * s}},
		{"never while it works", []usage{{0, 0.05}}, nil},
		{"after work", []usage{{0, 0.001}, {m, 0.3}, {3 * m, 0.001}}, []time.Duration{30 * s, 3*m + 15*s}},
		{"not for a trifle", []usage{{0, 0.0001}, {m, 0.3}, {m + s, 0.0001}}, []time.Duration{30 * s}},
		{"a trifle for a long time", []usage{{0, 0.001}}, []time.Duration{30 * s, 9 * m}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 10*m)
				defer cancel()
				used := func() (sum time.Duration, _ error) {
					now := time.Since(start)
					for i, u := range tt.usage {
						to := now
						if i+1 < len(tt.usage) {
							to = min(now, tt.usage[i+1].from)
						}
						if to > u.from {
							sum += time.Duration(float64(to-u.from) * u.share)
						}
					}
					return sum, nil
				}
				var got []time.Duration
				err := runResting(ctx, used, func() error {
					got = append(got, time.Since(start))
					return nil
				})
				if err != nil || !slices.Equal(got, tt.want) {
					t.Errorf("trimmed at %v, want %v; %v", got, tt.want, err)
				}
			})
		})
	}
}

func TestRestingEndsWithAnError(t *testing.T) {
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		err := runResting(t.Context(), processorTime, func() error { return broken })
		if !errors.Is(err, broken) {
			t.Error(err)
		}
	})
}

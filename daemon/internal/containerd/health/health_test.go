package health_test

import (
	"context"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/daemon/internal/containerd/health"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

var check = health.Check{Interval: 10 * time.Second, StartInterval: 2 * time.Second, Timeout: 3 * time.Second, Retries: 3}

type step struct {
	at     time.Duration
	status runtime.Health
}

// play runs a check against answers, one a probe; the last one is repeated.
func play(t *testing.T, c health.Check, s health.State, age, length time.Duration, answers ...health.Result) (steps []step, probes []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		c.Run(ctx, s, begin.Add(-age), func(context.Context) health.Result {
			r := answers[min(len(probes), len(answers)-1)]
			probes = append(probes, time.Since(begin))
			return r
		}, func(s health.State) { steps = append(steps, step{time.Since(begin), s.Status}) })
	})
	return steps, probes
}

func TestCourses(t *testing.T) {
	ok, bad, void := health.Result{OK: true}, health.Result{Output: "no"}, health.Result{Void: true}
	starting := health.State{Status: runtime.HealthStarting}
	patient := check
	patient.StartPeriod = 9 * time.Second
	const s = time.Second
	for name, tc := range map[string]struct {
		check   health.Check
		from    health.State
		age     time.Duration
		answers []health.Result
		want    []step
	}{
		"healthy with the first success":        {check, starting, 0, []health.Result{ok}, []step{{10 * s, runtime.Healthy}}},
		"unhealthy after the retries":           {check, starting, 0, []health.Result{bad}, []step{{30 * s, runtime.Unhealthy}}},
		"recovers":                              {check, starting, 0, []health.Result{bad, bad, bad, ok}, []step{{30 * s, runtime.Unhealthy}, {40 * s, runtime.Healthy}}},
		"failures must be in a row":             {check, starting, 0, []health.Result{ok, bad, bad, ok, bad, bad, ok}, []step{{10 * s, runtime.Healthy}}},
		"failures of the start do not count":    {patient, starting, 0, []health.Result{bad}, []step{{30 * s, runtime.Unhealthy}}},
		"a success ends the start":              {patient, starting, 0, []health.Result{ok, bad}, []step{{2 * s, runtime.Healthy}, {32 * s, runtime.Unhealthy}}},
		"what could not be probed is nothing":   {check, starting, 0, []health.Result{bad, bad, void, void, bad}, []step{{50 * s, runtime.Unhealthy}}},
		"taken over unhealthy":                  {check, health.State{Status: runtime.Unhealthy, Failures: 3}, time.Hour, []health.Result{bad, ok}, []step{{20 * s, runtime.Healthy}}},
		"taken over after its start":            {patient, starting, time.Minute, []health.Result{bad}, []step{{30 * s, runtime.Unhealthy}}},
		"started in the future, says its clock": {patient, starting, -time.Hour, []health.Result{ok}, []step{{2 * s, runtime.Healthy}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := play(t, tc.check, tc.from, tc.age, 100*s, tc.answers...); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

func TestProbesAreBoundedAndDoNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		var ends []time.Duration
		check.Run(ctx, health.State{Status: runtime.HealthStarting}, begin, func(ctx context.Context) health.Result {
			<-ctx.Done() // a probe that hangs
			ends = append(ends, time.Since(begin))
			return health.Result{}
		}, func(health.State) {})
		if want := []time.Duration{13 * time.Second, 26 * time.Second, 39 * time.Second}; !reflect.DeepEqual(ends, want) {
			t.Errorf("probes end at %v, want %v", ends, want)
		}
	})
}

// TestNext checks the machine against what it promises, for every course.
func TestNext(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := health.Check{Retries: rapid.IntRange(1, 5).Draw(t, "retries"), StartPeriod: time.Duration(rapid.IntRange(0, 10).Draw(t, "start period")) * time.Second}
		s := health.State{Status: runtime.HealthStarting}
		row, succeeded := 0, false
		for i := range rapid.IntRange(0, 30).Draw(t, "probes") {
			r := health.Result{OK: rapid.Bool().Draw(t, "ok"), Void: rapid.Bool().Draw(t, "void"), Output: "x"}
			age := time.Duration(i) * time.Second
			s = c.Next(s, r, age)
			switch {
			case r.Void:
			case r.OK:
				row, succeeded = 0, true
			case succeeded || age >= c.StartPeriod:
				row++
			}
			want := runtime.HealthStarting
			if row >= c.Retries {
				want = runtime.Unhealthy
				succeeded = true // from here it is no longer starting
			} else if succeeded && s.Status != runtime.Unhealthy {
				want = runtime.Healthy
			} else if succeeded {
				want = s.Status
			}
			if s.Status != want || s.Failures > c.Retries {
				t.Fatalf("after %d probes: %+v, want %s (%d in a row)", i+1, s, want, row)
			}
			if s.Status == runtime.Unhealthy && row < c.Retries {
				t.Fatalf("unhealthy after %d failures", row)
			}
		}
	})
}

package provision_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/daemon/internal/dps"
	"github.com/breakwater-iot/breakwater/daemon/internal/provision"
)

// model is what a device should know of itself after any history.
type model struct {
	file  string
	hub   string // empty: no assignment
	stale bool
}

// start starts the device once, while the service gives answer (nil: this hub).
func (m *model) start(t *testing.T, rt *rapid.T, always bool, answer error, hub string) {
	r := &registrar{script: []error{answer}, hub: hub}
	var s provision.State
	var err error
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s, err = provision.Start(ctx, provision.Options{File: m.file, Registration: "r", Always: always, Registrar: r, Log: slog.New(slog.DiscardHandler)})
	})
	want := m.hub
	switch {
	case m.hub != "" && !m.stale && !always:
		if r.calls != 0 {
			rt.Fatalf("%d calls though the assignment is known", r.calls)
		}
	case answer == nil:
		want, m.hub, m.stale = hub, hub, false
	case m.hub == "":
		if !errors.Is(err, context.DeadlineExceeded) {
			rt.Fatalf("gave up: %v", err)
		}
		return
	case !errors.Is(answer, dps.ErrUnavailable):
		if !errors.As(err, new(*dps.Error)) {
			rt.Fatalf("refusal is lost: %v", err)
		}
		return
	}
	if err != nil || s.Hub != want {
		rt.Fatalf("belongs to %q (%v), want %q", s.Hub, err, want)
	}
}

func TestAnyHistoryLeavesTheAssignmentThatTheServiceGaveLast(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "provision")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := &model{file: provision.File(dir)}
		rt.Repeat(map[string]func(*rapid.T){
			"start": func(rt *rapid.T) {
				answer := rapid.SampledFrom([]error{nil, errAway, errRefused}).Draw(rt, "answer")
				m.start(t, rt, rapid.Bool().Draw(rt, "always"), answer, rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "hub"))
			},
			"request to reprovision": func(rt *rapid.T) {
				if err := provision.MarkStale(m.file); err != nil {
					rt.Fatal(err)
				}
				m.stale = true
			},
			"damage": func(rt *rapid.T) {
				if m.hub == "" {
					rt.Skip()
				}
				if err := os.WriteFile(m.file, []byte("{"), 0o600); err != nil {
					rt.Fatal(err)
				}
				m.hub, m.stale = "", false
			},
			"": func(rt *rapid.T) {
				s, err := provision.ReadFile(m.file)
				if m.hub != "" && (err != nil || s.Hub != m.hub || s.Stale != m.stale) {
					rt.Fatalf("remembers %+v (%v), want %+v", s, err, m)
				}
				if m.hub == "" && err == nil {
					rt.Fatalf("remembers %+v", s)
				}
				if m.hub == "" && errors.Is(err, fs.ErrNotExist) {
					m.stale = false
				}
			},
		})
	})
}

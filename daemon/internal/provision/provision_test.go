package provision_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/dps"
	"github.com/breakwater-iot/breakwater/daemon/internal/provision"
)

// registrar answers from a script; the last answer repeats.
type registrar struct {
	script []error // nil: assigned
	hub    string
	calls  int
}

func (r *registrar) Register(context.Context) (dps.Assignment, error) {
	i := min(r.calls, len(r.script)-1)
	r.calls++
	if err := r.script[i]; err != nil {
		return dps.Assignment{}, err
	}
	return dps.Assignment{Hub: r.hub, DeviceID: "d1", Substatus: "initialAssignment"}, nil
}

var (
	errAway    = fmt.Errorf("register: %w: no route", dps.ErrUnavailable)
	errRefused = fmt.Errorf("register: %w", &dps.Error{Status: 404, Code: 404201})
	errBroken  = errors.New("tpm: no such device")
)

func TestStart(t *testing.T) {
	for _, c := range []struct {
		name   string
		known  string // registration of the file; empty: no file
		stale  bool
		always bool
		script []error
		hub    string // wanted; empty: an error
		calls  int
	}{
		{"first start", "", false, false, []error{nil}, "new", 1},
		{"first start waits for the service", "", false, false, []error{errAway, errAway, nil}, "new", 3},
		{"first start waits to be enrolled", "", false, false, []error{errRefused, nil}, "new", 2},
		{"first start with a broken TPM", "", false, false, []error{errBroken}, "", 1},
		{"known", "r", false, false, []error{nil}, "old", 0},
		{"known for another registration", "other", false, false, []error{nil}, "new", 1},
		{"known for another registration and refused", "other", false, false, []error{errRefused, nil}, "new", 2},
		{"always", "r", false, true, []error{nil}, "new", 1},
		{"always, offline", "r", false, true, []error{errAway}, "old", 1},
		{"always, refused", "r", false, true, []error{errRefused}, "", 1},
		{"stale", "r", true, false, []error{nil}, "new", 1},
		{"stale, offline", "r", true, false, []error{errAway}, "old", 1},
		{"stale, refused", "r", true, false, []error{errRefused}, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := provision.File(t.TempDir())
			synctest.Test(t, func(t *testing.T) {
				log := slog.New(slog.DiscardHandler)
				if c.known != "" {
					_, err := provision.Again(t.Context(), provision.Options{File: file, Registration: c.known, Registrar: &registrar{script: []error{nil}, hub: "old"}})
					if err != nil {
						t.Fatal(err)
					}
					if c.stale {
						if err := provision.MarkStale(file); err != nil {
							t.Fatal(err)
						}
					}
				}
				r := &registrar{script: c.script, hub: "new"}
				s, err := provision.Start(t.Context(), provision.Options{File: file, Registration: "r", Always: c.always, Registrar: r, Log: log})
				if s.Hub != c.hub || (err != nil) != (c.hub == "") || r.calls != c.calls {
					t.Fatalf("%+v, %v after %d calls", s, err, r.calls)
				}
				if c.hub != "new" {
					return
				}
				st, err := os.Stat(file)
				if err != nil || st.Mode().Perm() != 0o600 {
					t.Errorf("file: %v, %v", st, err)
				}
				if s, err := provision.ReadFile(file); err != nil || s.Hub != "new" || s.Stale || s.Registration != "r" {
					t.Errorf("remembered %+v, %v", s, err)
				}
			})
		})
	}
}

func TestPausesGrowAndEndWithTheContext(t *testing.T) {
	file := provision.File(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		r := &registrar{script: []error{errAway}}
		_, err := provision.Start(ctx, provision.Options{File: file, Registration: "r", Registrar: r, Log: slog.New(slog.NewTextHandler(&out, nil))})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if r.calls < 10 || r.calls > 40 {
			t.Errorf("%d attempts in an hour", r.calls)
		}
		if !strings.Contains(out.String(), "no route") {
			t.Errorf("log %s", &out)
		}
	})
}

func TestDamagedFileIsAsGoodAsNone(t *testing.T) {
	file := provision.File(t.TempDir())
	if err := provision.MarkStale(file); err != nil {
		t.Fatal("no file:", err)
	}
	o := provision.Options{File: file, Registration: "r", Registrar: &registrar{script: []error{nil}, hub: "h"}, Log: slog.New(slog.DiscardHandler)}
	if _, err := provision.Again(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(`{"registration":"r"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := provision.Start(t.Context(), o); err != nil || s.Hub != "h" {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := os.WriteFile(file, []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := provision.MarkStale(file); err != nil {
		t.Fatal(err)
	}
	if _, err := provision.ReadFile(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("damaged file is still there: %v", err)
	}
}

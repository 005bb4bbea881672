package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/edged/edgedtest"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/agent/internal/state"
)

func open(t *testing.T, o state.Options) *state.Store {
	t.Helper()
	if o.Sealer == nil {
		o.Sealer = &edgedtest.Sealer{Key: "k"}
	}
	s, warn, err := state.Open(o)
	if err != nil || warn != nil {
		t.Fatal(err, warn)
	}
	return s
}

func taken() *state.Taken {
	m := manifest.Module{Name: "m", Type: "docker", Status: manifest.Running, Restart: manifest.RestartAlways, Image: "i:1",
		Env: map[string]string{"SECRET": "hush"}, CreateOptions: "{}", Order: manifest.DefaultOrder}
	return &state.Taken{
		Deployment: manifest.Deployment{Version: 3, Modules: map[string]manifest.Module{"m": m},
			Runtime: manifest.Runtime{Type: "docker", Registries: []manifest.Registry{{Name: "r", Password: "hush"}}}},
		Applied: map[string]manifest.Module{"m": m},
	}
}

func TestTakenSurvives(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	s := open(t, state.Options{Folder: dir})
	if _, err := s.LoadTaken(t.Context()); !errors.Is(err, state.ErrNone) {
		t.Fatalf("empty store: %v", err)
	}
	if err := s.SaveTaken(t.Context(), taken()); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, state.Options{Folder: dir}).LoadTaken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(taken())
	if !bytes.Equal(a, b) || got.Deployment.Runtime.Registries[0].Password != "hush" {
		t.Errorf("read %s", a)
	}
}

func TestNothingSecretIsOnDiskInClear(t *testing.T) {
	dir := t.TempDir()
	s := open(t, state.Options{Folder: dir})
	for _, err := range []error{
		s.SaveTaken(t.Context(), taken()),
		s.SaveBackup(t.Context(), 3, json.RawMessage(`{"a":"hush"}`)),
		s.SaveRestart("m", plan.Restart{Count: 1}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	files, _ := os.ReadDir(dir)
	if len(files) != 3 {
		t.Fatalf("files %v", files)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil || bytes.Contains(b, []byte("hush")) {
			t.Errorf("%s: %v %s", f.Name(), err, b)
		}
		if info, _ := f.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
}

func TestVectorIsFreshForEachWrite(t *testing.T) {
	dir := t.TempDir()
	s := open(t, state.Options{Folder: dir})
	seen := map[string]bool{}
	for i := range 3 {
		if err := s.SaveBackup(t.Context(), 1, json.RawMessage(`{"n":`+strings.Repeat("1", i+1)+`}`)); err != nil {
			t.Fatal(err)
		}
		var e struct{ IV []byte }
		b, _ := os.ReadFile(filepath.Join(dir, "backup.json"))
		if err := json.Unmarshal(b, &e); err != nil || len(e.IV) < 16 || seen[string(e.IV)] {
			t.Errorf("vector %q, %v", e.IV, err)
		}
		seen[string(e.IV)] = true
	}
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(t.TempDir(), "elsewhere", "config.json")
	sealer := &edgedtest.Sealer{Key: "k"}
	opts := state.Options{Folder: dir, Backup: path, Volatile: true, Sealer: sealer}
	s := open(t, opts)
	if _, err := s.LoadBackup(t.Context()); !errors.Is(err, state.ErrNone) {
		t.Fatalf("no backup: %v", err)
	}
	for range 2 {
		if err := s.SaveBackup(t.Context(), 7, json.RawMessage(`{"$version":7}`)); err != nil {
			t.Fatal(err)
		}
	}
	if n := sealer.Seals.Load(); n != 1 {
		t.Errorf("the same backup is written %d times", n)
	}
	got, err := open(t, opts).LoadBackup(t.Context())
	if err != nil || string(got) != `{"$version":7}` {
		t.Errorf("%s, %v", got, err)
	}
	opts.Sealer = &edgedtest.Sealer{Key: "other"}
	if _, err := open(t, opts).LoadBackup(t.Context()); err == nil || errors.Is(err, state.ErrNone) {
		t.Errorf("other key: %v", err)
	}
}

func TestRestartStates(t *testing.T) {
	dir := t.TempDir()
	s := open(t, state.Options{Folder: dir})
	last := time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC)
	for _, err := range []error{
		s.SaveRestart("a", plan.Restart{Count: 2, Last: last}), s.SaveRestart("b", plan.Restart{QuickExits: 1}), s.ForgetRestart("b"), s.ForgetRestart("c"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := open(t, state.Options{Folder: dir}).Restarts()
	if len(got) != 1 || got["a"].Count != 2 || !got["a"].Last.Equal(last) {
		t.Errorf("%v", got)
	}
	got["a"] = plan.Restart{}
	if s.Restarts()["a"].Count != 2 {
		t.Error("the map is shared")
	}
}

func TestDamageIsToldAndSurvived(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"restarts.json": "{", "taken.json": "not JSON", ".backup.json.123": "left by a crash"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, warn, err := state.Open(state.Options{Folder: dir, Sealer: &edgedtest.Sealer{}})
	if err != nil || warn == nil || len(s.Restarts()) != 0 {
		t.Fatalf("err %v, warn %v, %v", err, warn, s.Restarts())
	}
	if _, err := s.LoadTaken(t.Context()); err == nil || errors.Is(err, state.ErrNone) {
		t.Errorf("damaged file: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".backup.json.123")); !errors.Is(err, os.ErrNotExist) {
		t.Error("temporary file is left")
	}
	if err := s.SaveRestart("a", plan.Restart{Count: 1}); err != nil {
		t.Error(err)
	}
}

func TestVolatileStoreWritesNoState(t *testing.T) {
	dir := t.TempDir()
	s := open(t, state.Options{Folder: dir, Volatile: true})
	if err := errors.Join(s.SaveTaken(t.Context(), taken()), s.SaveRestart("a", plan.Restart{Count: 1})); err != nil {
		t.Fatal(err)
	}
	if got, err := s.LoadTaken(t.Context()); err != nil || got.Deployment.Version != 3 {
		t.Errorf("%v, %v", got, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("files %v", files)
	}
}

func TestUnwritableFolderIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := state.Open(state.Options{Folder: filepath.Join(file, "x")}); err == nil {
		t.Error("opened below a file")
	}
}

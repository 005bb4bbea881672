package module_test

import (
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime/runtimetest"
)

func TestAnImageWithoutItsNameStaysAsLongAsItIsNeeded(t *testing.T) {
	var kept []string
	j := &journal{Fake: runtimetest.New("reg/a:1"), open: map[string]bool{}, file: map[string]bool{}}
	m := module.New(module.Options{
		Runtime: j, Sockets: sockets{j}, Kept: func() []string { return kept }, Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(m.Close)
	id := func() string {
		st, err := m.Get(t.Context(), "a")
		must(t, err)
		return st.ImageID
	}
	there := func(id string) bool {
		list, err := j.ListImages(t.Context())
		must(t, err)
		return slices.ContainsFunc(list, func(i runtime.Image) bool { return i.ID == id })
	}
	must(t, m.Create(t.Context(), spec("a", "reg/a:1")))
	first := id()
	second := j.MoveImage("reg/a:1", "second")
	must(t, m.PrepareUpdate(t.Context(), spec("a", "reg/a:1")))
	if !there(first) || !there(second) {
		t.Fatal("an image is gone before its module")
	}
	kept = []string{first}
	must(t, m.Update(t.Context(), spec("a", "reg/a:1"), true))
	if id() != second || !there(first) {
		t.Fatalf("made from %s, the one to go back to is there: %t", id(), there(first))
	}
	old := spec("a", "reg/a:1")
	old.ImageID = first
	must(t, m.Update(t.Context(), old, true))
	if id() != first {
		t.Errorf("went back to %s", id())
	}
	must(t, m.Update(t.Context(), spec("a", "reg/a:1"), true))
	kept = nil
	m.ReleaseImages(t.Context())
	if there(first) {
		t.Error("it stays although nobody needs it")
	}
	if err := m.Update(t.Context(), old, true); !errors.Is(err, runtime.ErrImageNotFound) || id() != second {
		t.Errorf("update to what is gone: %v", err)
	}
	j.MoveImage("reg/a:1", "third")
	must(t, m.Update(t.Context(), spec("a", "reg/a:1"), true))
	if there(second) {
		t.Error("the image of before the update stays although nobody needs it")
	}
}

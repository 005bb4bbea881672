package edge_test

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/edge"
	"github.com/breakwater-iot/breakwater/hub/internal/head/mqtt"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

func TestSessionsAreKept(t *testing.T) {
	s, err := store.Open("", store.Options{InMemory: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	bucket := s.Bucket("sessions")
	kept := edge.Sessions(bucket)
	if subs, found, err := kept.Load(t.Context(), mod); found || err != nil || subs != nil {
		t.Errorf("nothing yet: %v %v %v", subs, found, err)
	}
	want := []mqtt.Subscription{{Filter: "devices/edge/modules/mod/inputs/#", QoS: 1}, {Filter: "$iothub/methods/POST/#"}}
	if err := kept.Save(t.Context(), mod, want); err != nil {
		t.Fatal(err)
	}
	if subs, found, err := kept.Load(t.Context(), mod); !found || err != nil || !slices.Equal(subs, want) {
		t.Errorf("kept: %v %v %v", subs, found, err)
	}
	if _, found, err := kept.Load(t.Context(), sink); found || err != nil {
		t.Errorf("another: %v %v", found, err)
	}
	if err := bucket.Put(t.Context(), mod.String(), []byte("no JSON")); err != nil {
		t.Fatal(err)
	}
	if _, found, err := kept.Load(t.Context(), mod); found || err != nil {
		t.Errorf("unreadable is as good as none: %v %v", found, err)
	}
	if err := kept.Delete(t.Context(), mod); err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.Get(mod.String()); err == nil {
		t.Error("not deleted")
	}
}

package twin_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/twin"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func openStore(t *testing.T) (*store.Store, *twin.Store) {
	t.Helper()
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, twin.NewStore(s)
}

func create(t *testing.T, s *store.Store, tw *twin.Store, ids ...iothub.Identity) {
	t.Helper()
	defer tw.Exclusive()()
	var b store.Batch
	for _, id := range ids {
		if err := tw.Created(&b, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CommitWait(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
}

func TestUpdatesOfOneTwinLoseNothingAndTellInOrder(t *testing.T) {
	s, tw := openStore(t)
	id := iothub.ModuleIdentity("d", "m")
	create(t, s, tw, id, iothub.DeviceIdentity("d"))
	const n = 50
	var told []int64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, err := tw.Update(t.Context(), id, func(x *twin.Twin) error {
				_, err := x.Patch(twin.Change{Desired: map[string]any{"k" + strconv.Itoa(i): json.Number("1")}}, start)
				return err
			}, func(x *twin.Twin) { told = append(told, x.Desired.Version) })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := tw.Get(id)
	if err != nil || len(got.Desired.Values) != n || got.Desired.Version != n+1 {
		t.Fatalf("%d values, version %d, %v", len(got.Desired.Values), got.Desired.Version, err)
	}
	for i, v := range told {
		if v != int64(i)+2 {
			t.Fatalf("told %v", told)
		}
	}
	if other, err := tw.Get(iothub.DeviceIdentity("d")); err != nil || len(other.Desired.Values) != 0 {
		t.Errorf("the device's twin changed too: %v", err)
	}
}

func TestUpdateWritesNothingOnError(t *testing.T) {
	s, tw := openStore(t)
	id := iothub.DeviceIdentity("d")
	create(t, s, tw, id)
	boom := errors.New("boom")
	for give, fails := range map[error]bool{boom: true, twin.ErrUnchanged: false} {
		_, err := tw.Update(t.Context(), id, func(x *twin.Twin) error { x.Version = 99; return give }, func(*twin.Twin) { t.Error("told") })
		if fails != errors.Is(err, boom) {
			t.Errorf("%v", err)
		}
	}
	if got, err := tw.Get(id); err != nil || got.Version != 2 {
		t.Errorf("version %d, %v", got.Version, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tw.Update(ctx, id, func(*twin.Twin) error { return nil }, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestDeletedTwinIsNotBroughtBack(t *testing.T) {
	s, tw := openStore(t)
	id := iothub.DeviceIdentity("d")
	create(t, s, tw, id)
	inside, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := tw.Update(t.Context(), id, func(*twin.Twin) error {
			close(inside)
			<-goOn
			return nil
		}, nil)
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	wg.Go(func() {
		defer tw.Exclusive()()
		var b store.Batch
		tw.Deleted(&b, id)
		if err := s.CommitWait(t.Context(), &b); err != nil {
			t.Error(err)
		}
	})
	close(goOn)
	wg.Wait()
	if _, err := tw.Get(id); !errors.Is(err, twin.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := tw.Update(t.Context(), id, func(*twin.Twin) error { return nil }, nil); !errors.Is(err, twin.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

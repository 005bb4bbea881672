package edge_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

func TestRenewedTokenKeepsTheClient(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		d := r.connect(leaf) // for three hours
		time.Sleep(2 * time.Hour)
		if err := d.session.Renew(t.Context(), login(t, leaf, key, 3*time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if err := d.why(); err != nil {
			t.Errorf("disconnected: %v", err)
		}
		// What does not hold, or is another's, changes nothing.
		for name, l := range map[string]head.Login{
			"wrong key": login(t, leaf, key2, 3*time.Hour), "expired": login(t, leaf, key, -time.Hour), "another's": login(t, mod, key, 3*time.Hour),
		} {
			want := head.ErrUnauthorized
			if name == "another's" {
				want = head.ErrInvalid
			}
			if err := d.session.Renew(t.Context(), l); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := d.why(); err != nil {
			t.Errorf("disconnected: %v", err)
		}
		time.Sleep(70 * time.Minute)
		if err := d.why(); !errors.Is(err, head.ErrExpired) {
			t.Errorf("after expiry: %v", err)
		}
	})
}

func TestCheckAdmitsNobody(t *testing.T) {
	within(t, nil, func(t *testing.T, r *rig) {
		old := r.connect(leaf)
		if err := r.hub.Check(t.Context(), login(t, leaf, key, time.Hour)); err != nil {
			t.Error(err)
		}
		if err := old.why(); err != nil {
			t.Errorf("disconnected: %v", err)
		}
		for name, l := range map[string]head.Login{
			"wrong key": login(t, leaf, key2, time.Hour), "the hub itself": login(t, self, key, time.Hour),
			"a policy": {Token: login(t, leaf, key, time.Hour).Token},
		} {
			if err := r.hub.Check(t.Context(), l); !errors.Is(err, head.ErrUnauthorized) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// windowed is a device of a protocol with flow control.
type windowed struct {
	*device
	n int
}

func (w *windowed) Window(head.Feature) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

func TestInputsGetNoMoreThanTheirWindow(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		sender.send("out", "1", "2", "3", "4", "5")
		d := &windowed{device: &device{t: t, id: sink, fall: "*"}}
		var err error
		if d.session, err = r.hub.Connect(t.Context(), login(t, sink, key, time.Hour), d); err != nil {
			t.Fatal(err)
		}
		grow := func(n int, want string) {
			t.Helper()
			d.set(func() { d.n = n })
			d.session.Subscribe(head.Inputs)
			synctest.Wait()
			if d.list() != want {
				t.Errorf("window %d: %s, want %s", n, d.list(), want)
			}
		}
		grow(0, "")
		grow(2, "in:1 in:2")
		grow(3, "in:1 in:2 in:3")
	})
}

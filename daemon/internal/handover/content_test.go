package handover_test

import (
	"slices"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// imageID is the image that the agent is made from.
func (d *device) imageID() string {
	d.t.Helper()
	st, err := d.Get(d.t.Context(), module.Agent)
	if err != nil {
		d.t.Fatal(err)
	}
	return st.ImageID
}

// has tells whether an image is on the device.
func (d *device) has(id string) bool {
	d.t.Helper()
	list, err := d.ListImages(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return slices.ContainsFunc(list, func(i runtime.Image) bool { return i.ID == id })
}

func TestTheOldContentComesBackAlthoughItsTagHasMoved(t *testing.T) {
	for _, restart := range []bool{false, true} {
		on(t, func(d *device) {
			good := d.imageID()
			bad := d.MoveImage(old, "bad content")
			d.update(agent(old, "exit=3"))
			if d.imageID() != bad || !d.has(good) {
				t.Fatalf("on trial is %s, the old one is there: %t", d.imageID(), d.has(good))
			}
			d.change(func(e *engine) { e.away = true })
			if restart {
				d.stop()
				d.run()
			}
			d.pass(time.Minute)
			d.expectTakenBack(agent(old, "exit=3"), old, "ended the last time with exit code 3")
			if d.imageID() != good {
				t.Fatalf("restart %t: the content of %s came back", restart, d.imageID())
			}
			d.change(func(e *engine) { e.away = false })
			d.update(agent(third))
			if !d.has(good) {
				t.Error("the content to go back to is gone during a trial")
			}
			d.ask(time.Minute)
			d.expect(third)
			if d.has(good) {
				t.Error("it stays although a good agent has followed")
			}
		})
	}
}

func TestTheTrialIsOfWhatWasFetched(t *testing.T) {
	on(t, func(d *device) {
		d.update(agent(next, "exit=3"))
		first := d.imageID()
		d.MoveImage(next, "something else")
		if _, err := d.Pull(t.Context(), runtime.PullRequest{Image: next}); err != nil {
			t.Fatal(err)
		}
		if err := d.Remove(t.Context(), module.Agent); err != nil { // the next attempt makes it anew
			t.Fatal(err)
		}
		d.pass(6 * time.Second)
		if d.imageID() != first {
			t.Error("another image is on trial")
		}
	})
}

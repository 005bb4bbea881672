package edge_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/client"
)

// confirmed is a device whose head tells it whether its outcomes count.
type confirmed struct {
	*device
	settle []func(head.Outcome) bool
}

func (d *confirmed) Deliver(_ string, _ *iothub.Message, settled func(head.Outcome) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settle = append(d.settle, settled)
}

// deliveries are those so far.
func (d *confirmed) deliveries() []func(head.Outcome) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settle
}

func TestAnOutcomeAfterTheTimeForItDoesNotCount(t *testing.T) {
	within(t, routed(toSink), func(t *testing.T, r *rig) {
		d := &confirmed{device: &device{t: t, id: sink}}
		s, err := r.hub.Connect(t.Context(), login(t, sink, key, 3*time.Hour), d)
		if err != nil {
			t.Fatal(err)
		}
		d.session = s
		s.Subscribe(head.Inputs)
		from := r.connect(mod)
		from.send("out", "in time")
		synctest.Wait()
		if len(d.deliveries()) != 1 || !d.deliveries()[0](head.Complete) {
			t.Fatalf("%d delivered, or the outcome in time does not count", len(d.deliveries()))
		}
		if d.deliveries()[0](head.Complete) {
			t.Error("the same outcome counts twice")
		}
		from.send("out", "late")
		synctest.Wait()
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if len(d.deliveries()) < 2 || d.deliveries()[1](head.Complete) {
			t.Errorf("%d delivered, or the late outcome counts", len(d.deliveries()))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if last := len(d.deliveries()) - 1; last < 2 || !d.deliveries()[last](head.Complete) {
			t.Errorf("%d delivered: it must come again", len(d.deliveries()))
		}
	})
}

func TestACloudMessageThatIsSettledTooLate(t *testing.T) {
	within(t, routed(), func(t *testing.T, r *rig) {
		d := &confirmed{device: &device{t: t, id: leaf}}
		s, err := r.hub.Connect(t.Context(), login(t, leaf, key, 3*time.Hour), d)
		if err != nil {
			t.Fatal(err)
		}
		d.session = s
		s.Subscribe(head.C2D)
		synctest.Wait()
		relay := func(lock string) chan error {
			m := &iothub.Message{Body: []byte("x")}
			m.System.Set(iothub.LockToken, lock)
			result := make(chan error, 1)
			go func() { result <- r.hub.CloudMessage(t.Context(), leaf, m) }()
			synctest.Wait()
			return result
		}
		if result := relay("1"); !d.deliveries()[0](head.Complete) || <-result != nil {
			t.Error("an outcome in time does not count")
		}
		result := relay("2")
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if err := <-result; !errors.Is(err, client.ErrKeep) {
			t.Errorf("the cloud is told %v", err)
		}
		if d.deliveries()[1](head.Complete) {
			t.Error("a late outcome counts")
		}
	})
}

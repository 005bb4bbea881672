package c2d_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/c2d"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

func TestOutcomesThatComeTooLateDoNotCount(t *testing.T) {
	const out = 61 * time.Second // for a lock to run out
	tests := []struct {
		name    string
		happens func(t *testing.T, q *c2d.Queues)
		outcome head.Outcome
		counts  bool
	}{
		{"in time", func(*testing.T, *c2d.Queues) {}, head.Complete, true},
		{"abandoned in time", func(*testing.T, *c2d.Queues) {}, head.Abandon, true},
		// It has had the message, and nobody else has.
		{"the lock has run out", func(*testing.T, *c2d.Queues) { time.Sleep(out) }, head.Complete, true},
		{"another has the message", func(t *testing.T, q *c2d.Queues) {
			time.Sleep(out)
			if m, err := q.Receive(dev); err != nil || m == nil {
				t.Fatal(m, err)
			}
		}, head.Complete, false},
		{"the message is no more", func(*testing.T, *c2d.Queues) { time.Sleep(3 * time.Hour) }, head.Complete, false},
		{"refused when it is no more", func(*testing.T, *c2d.Queues) { time.Sleep(3 * time.Hour) }, head.Reject, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := open(t, openStore(t), c2d.Options{})
				run(t, q)
				send(t, q, dev, message("1"))
				var got []handed
				s := q.Subscribe(dev, c2d.SubscribeOptions{Window: func() int { return 1 },
					Deliver: func(m *iothub.Message, settled func(head.Outcome) bool) { got = append(got, handed{m, settled}) }})
				defer s.Close()
				synctest.Wait()
				if len(got) != 1 {
					t.Fatalf("%d handed out", len(got))
				}
				first := got[0] // what is abandoned comes again meanwhile
				tt.happens(t, q)
				if counts := first.settled(tt.outcome); counts != tt.counts {
					t.Errorf("counts: %v", counts)
				}
				if first.settled(tt.outcome) {
					t.Error("it counts twice")
				}
			})
		})
	}
}

package dispatch_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/dispatch"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// sharingSink gives places as the test wants it.
type sharingSink struct {
	*sink
	free     int  // guarded by sink.mu, as all; places that may be reserved
	reserved int  // and neither under way nor given back
	waits    bool // got fewer than it wanted
	asked    int  // calls of Reserve
}

func (s *sharingSink) Reserve(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := min(n, s.free)
	s.asked++
	s.free -= got
	s.reserved += got
	s.waits = got < n
	return got
}

func (s *sharingSink) GiveBack(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += n
	s.reserved -= n
	s.waits = false
}

func (s *sharingSink) Deliver(m *iothub.Message, info dispatch.Info, done func(error)) {
	s.mu.Lock()
	s.reserved--
	s.mu.Unlock()
	s.sink.Deliver(m, info, func(err error) {
		s.mu.Lock()
		s.free++
		s.mu.Unlock()
		done(err)
	})
}

// now is what there is: places that are free, and deliveries and calls of Reserve so far.
func (s *sharingSink) now() (free, sent, asked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free, len(s.got), s.asked
}

// rests tells what the pump has reserved and whether it waits, when it does nothing.
func (s *sharingSink) rests(t *testing.T, reserved int, waits bool) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reserved != reserved || s.waits != waits {
		t.Errorf("%d places reserved, waiting %v; want %d, %v", s.reserved, s.waits, reserved, waits)
	}
}

func TestPlacesBoundWhatIsInFlight(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		s := &sharingSink{sink: &sink{window: 8, delay: time.Hour}}
		r.configure(map[string]dispatch.Sink{"e": s})
		s.rests(t, 0, false)
		if _, _, asked := s.now(); asked != 0 {
			t.Error("places were asked for without a message")
		}
		r.append("e", 0, never, "d:0", "d:1", "d:2", "d:3")
		s.rests(t, 0, true)
		s.mu.Lock()
		s.free = 3
		s.mu.Unlock()
		r.e.Nudge("e")
		s.rests(t, 0, true) // all are used, and there may be more to send
		if got := s.list(); got != "d:0 d:1 d:2" {
			t.Errorf("sent %q", got)
		}
		s.mu.Lock()
		s.free = 9
		s.mu.Unlock()
		r.e.Nudge("e")
		s.rests(t, 0, false)
		free, _, _ := s.now()
		if got := s.list(); got != "d:0 d:1 d:2 d:3" || free != 8 {
			t.Errorf("sent %q, %d places are free", got, free)
		}
		time.Sleep(2 * time.Hour)
		if free, _, _ = s.now(); r.length() != 0 || free != 12 {
			t.Errorf("%d left, %d places are free", r.length(), free)
		}
	})
}

func TestPumpThatCannotSendDoesNotWaitForPlaces(t *testing.T) {
	bubble(t, dispatch.Options{Held: 4}, func(t *testing.T, r *rig) {
		s := &sharingSink{sink: &sink{window: 8}, free: 2}
		answer := dispatch.ErrNotReady
		s.answer = func(string, int) error { return answer }
		r.configure(map[string]dispatch.Sink{"e": s})
		var bodies []string
		for i := range 10 {
			bodies = append(bodies, fmt.Sprintf("d:%d", i))
		}
		r.append("e", 0, never, bodies...)
		s.rests(t, 0, false)
		_, sent, _ := s.now()
		for range 20 { // a nudge is no word that the endpoint is ready
			r.e.Nudge("e")
			s.rests(t, 0, false)
		}
		if _, n, _ := s.now(); n != sent {
			t.Errorf("%d sent to an endpoint that is not ready", n-sent)
		}
		s.mu.Lock()
		answer = errors.New("down")
		s.mu.Unlock()
		r.e.Wake("e")
		time.Sleep(3 * time.Second)
		s.rests(t, 0, false) // its lane waits for the next try
		s.mu.Lock()
		answer = nil
		s.taken = nil
		s.mu.Unlock()
		time.Sleep(2 * time.Minute)
		free, _, _ := s.now()
		if got := s.takenList(); got != strings.Join(bodies, " ") || free != 2 {
			t.Errorf("taken %q, %d places are free", got, free)
		}
	})
}

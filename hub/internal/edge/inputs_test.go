package edge_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

// toInputs routes messages from output "oN" of any module to input "inN", for so many
// N.
func toInputs(n int) []string {
	var routes []string
	for i := range n {
		routes = append(routes, fmt.Sprintf(`FROM /messages/modules/mod/outputs/o%d INTO BrokeredEndpoint("/modules/sink/inputs/in%d")`, i, i))
	}
	return routes
}

// crediting is a device whose protocol has a window.
type crediting struct {
	*device
	credit int // guarded by device.mu; for deliveries that are not settled
}

func (d *crediting) Window(head.Feature) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.credit
}

// settle completes the n oldest open deliveries.
func (d *device) settle(n int) {
	d.mu.Lock()
	list := d.open[:n]
	d.open = append([]func(head.Outcome) bool{}, d.open[n:]...)
	d.mu.Unlock()
	for _, f := range list {
		f(head.Complete)
	}
	synctest.Wait()
}

func TestIdleInputsDoNotNarrowTheWindowOfABusyOne(t *testing.T) {
	within(t, routed(toInputs(100)...), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		for range 200 {
			sender.send("o0", "x")
		}
		d := r.connect(sink)
		d.set(func() { d.fall = "*" })
		d.session.Subscribe(head.Inputs)
		synctest.Wait()
		if n := len(d.open); n != 128 {
			t.Errorf("%d deliveries at a time, want 128", n)
		}
		d.settle(100)
		if n := len(d.got); n != 200 {
			t.Errorf("%d delivered, want 200", n)
		}
	})
}

func TestInputsShareTheWindowOfTheirModule(t *testing.T) {
	const inputs, each = 12, 200 // twelve windows of an input are more than one of a module
	within(t, routed(toInputs(inputs)...), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		for i := range inputs {
			for k := range each {
				sender.send(fmt.Sprintf("o%d", i), fmt.Sprint(k))
			}
		}
		d := r.connect(sink)
		d.set(func() { d.fall = "*" })
		d.session.Subscribe(head.Inputs)
		synctest.Wait()
		if n := len(d.open); n != 1024 {
			t.Errorf("%d deliveries at a time, want 1024", n)
		}
		start := time.Now()
		for round := 0; len(d.open) > 0; round++ {
			d.settle(min(7, len(d.open)))
			if n := len(d.open); n > 1024 {
				t.Fatalf("%d deliveries at a time", n)
			}
			if round == 150 { // when all of the first windows are settled, and not much more
				for i := range inputs {
					if n := strings.Count(" "+strings.Join(d.got, " "), fmt.Sprintf(" in%d:", i)); n < each/2 {
						t.Errorf("input %d got %d of %d messages", i, n, len(d.got))
					}
				}
			}
		}
		if len(d.got) != inputs*each || time.Since(start) != 0 {
			t.Errorf("%d of %d delivered after %v", len(d.got), inputs*each, time.Since(start))
		}
		next := make(map[string]int) // in order
		for _, s := range d.got {
			in, body, _ := strings.Cut(s, ":")
			if body != fmt.Sprint(next[in]) {
				t.Fatalf("%s got %s, want %d", in, body, next[in])
			}
			next[in]++
		}
	})
}

func TestInputsShareTheCreditOfTheirModule(t *testing.T) {
	const inputs, each = 5, 20
	within(t, routed(toInputs(inputs)...), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		for i := range inputs {
			for range each {
				sender.send(fmt.Sprintf("o%d", i), "x")
			}
		}
		d := &crediting{device: &device{t: t, id: sink, fall: "*"}, credit: 3}
		s, err := r.hub.Connect(t.Context(), login(t, sink, key, time.Hour), d)
		if err != nil {
			t.Fatal(err)
		}
		d.session = s
		s.Subscribe(head.Inputs)
		synctest.Wait()
		start := time.Now()
		for credit := 3; len(d.open) > 0; credit = 1 + (credit+2)%7 {
			if n := len(d.open); n > 7 {
				t.Fatalf("%d deliveries at a time", n)
			}
			d.settle(1)
			d.set(func() { d.credit = max(credit, len(d.open)) })
			s.Subscribe(head.Inputs) // as the head tells of more
			synctest.Wait()
			if n := len(d.open); n > d.credit {
				t.Fatalf("%d deliveries with a credit of %d", n, d.credit)
			}
		}
		if len(d.got) != inputs*each || time.Since(start) != 0 {
			t.Errorf("%d of %d delivered after %v", len(d.got), inputs*each, time.Since(start))
		}
		s.Close(nil)
	})
}

// A connection that is lost with deliveries under way takes nothing of the window of
// the next.
func TestWindowIsThatOfTheConnection(t *testing.T) {
	const inputs, each = 12, 110
	within(t, routed(toInputs(inputs)...), func(t *testing.T, r *rig) {
		sender := r.connect(mod)
		for i := range inputs {
			for range each {
				sender.send(fmt.Sprintf("o%d", i), "x")
			}
		}
		for round := range 10 {
			d := r.connect(sink)
			d.set(func() { d.fall = "*" })
			d.session.Subscribe(head.Inputs)
			synctest.Wait()
			if round > 0 { // what was lost is tried with one message of each input
				if n := len(d.open); n != inputs {
					t.Errorf("%d deliveries at a time, want %d", n, inputs)
				}
				d.settle(inputs)
			}
			if n := len(d.open); n != 1024 {
				t.Errorf("%d deliveries at a time, want 1024", n)
			}
			d.end(errors.New("broken"))
			synctest.Wait()
		}
		d := r.connect(sink, head.Inputs)
		synctest.Wait()
		if want := inputs*each - 9*inputs; len(d.got) != want {
			t.Errorf("%d of %d delivered", len(d.got), want)
		}
	})
}

package conformance

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

// arrival is what must be true of an event in the cloud. case is an application
// property that no other message has.
type arrival struct {
	Case        string            `json:"case"`
	Origin      string            `json:"origin"`
	Module      string            `json:"module"`
	Application map[string]string `json:"application"`
	System      map[string]string `json:"system"`
	Annotations map[string]string `json:"annotations"`
	Payload     json.RawMessage   `json:"payload"` // nil: not looked at
	Text        string            `json:"text"`    // body; "": not looked at
}

// event is a line of `iothub monitor --output json`.
type event struct {
	Event struct {
		Origin     string `json:"origin"`
		Module     string `json:"module"`
		Properties struct {
			System      map[string]string `json:"system"`
			Application map[string]any    `json:"application"`
		} `json:"properties"`
		Annotations     map[string]any  `json:"annotations"`
		Payload         json.RawMessage `json:"payload"`
		PayloadEncoding string          `json:"payloadEncoding"`
	} `json:"event"`
	order int
}

// ledger holds what has arrived in the cloud, by the property "case".
type ledger struct {
	mu     sync.Mutex
	events map[string][]event
	count  int
	more   chan struct{} // closed and renewed with each arrival
}

func newLedger() *ledger {
	return &ledger{events: make(map[string][]event), more: make(chan struct{})}
}

func (l *ledger) add(line string) {
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return // not an event: the monitor says so when it starts anew
	}
	id, _ := e.Event.Properties.Application["case"].(string)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	e.order = l.count
	l.events[id] = append(l.events[id], e)
	close(l.more)
	l.more = make(chan struct{})
}

// find waits for an event of a case.
func (l *ledger) find(id string, limit time.Duration) (event, bool) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		l.mu.Lock()
		list, more := l.events[id], l.more
		l.mu.Unlock()
		if len(list) > 0 {
			return list[0], true
		}
		select {
		case <-more:
		case <-timer.C:
			return event{}, false
		}
	}
}

// arrivalLimit is how long a message may take to the cloud, also through edgehub and
// after a restart.
const arrivalLimit = 20 * time.Second

// check waits until all have arrived and compares them.
func (l *ledger) check(list []arrival, ordered bool) error {
	deadline := time.Now().Add(arrivalLimit)
	last := 0
	for i, want := range list {
		e, ok := l.find(want.Case, time.Until(deadline))
		if !ok {
			return fmt.Errorf("message %d of %d did not arrive in the cloud within %v", i+1, len(list), arrivalLimit)
		}
		if err := want.compare(e); err != nil {
			return fmt.Errorf("message %d of %d: %w", i+1, len(list), err)
		}
		if ordered && e.order < last {
			return fmt.Errorf("message %d of %d overtook the one before", i, len(list))
		}
		last = e.order
	}
	return nil
}

// inOrder waits for so many events of a case, whose payloads count from 0.
func (l *ledger) inOrder(id string, n int) error {
	deadline := time.Now().Add(arrivalLimit)
	for {
		l.mu.Lock()
		list, more := l.events[id], l.more
		l.mu.Unlock()
		if len(list) >= n {
			for i, e := range list {
				if string(e.Event.Payload) != fmt.Sprint(i) && string(e.Event.Payload) != fmt.Sprintf("%q", fmt.Sprint(i)) {
					return fmt.Errorf("message %d of %d is %s", i, len(list), e.Event.Payload)
				}
			}
			return nil
		}
		select {
		case <-more:
		case <-time.After(time.Until(deadline)):
			return fmt.Errorf("%d of %d messages arrived in the cloud within %v", len(list), n, arrivalLimit)
		}
	}
}

// absentFor is how long something is awaited that must not come.
const absentFor = 1500 * time.Millisecond

// absent checks that none of the cases arrives.
func (l *ledger) absent(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	time.Sleep(absentFor) // nothing tells of what does not come
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(ids, func(id string) bool { return len(l.events[id]) > 0 }); i >= 0 {
		return fmt.Errorf("message %q arrived in the cloud", ids[i])
	}
	return nil
}

func (a *arrival) compare(e event) error {
	if e.Event.Origin != a.Origin || e.Event.Module != a.Module {
		return fmt.Errorf("sender is %q %q, want %q %q", e.Event.Origin, e.Event.Module, a.Origin, a.Module)
	}
	for k, want := range a.Application {
		if got, ok := e.Event.Properties.Application[k]; !ok || got != want {
			return fmt.Errorf("property %q is %v, want %q", k, got, want)
		}
	}
	for k, want := range a.System {
		if got := e.Event.Properties.System[k]; got != want {
			return fmt.Errorf("system property %q is %q, want %q", k, got, want)
		}
	}
	for k, want := range a.Annotations {
		if got := e.Event.Annotations[k]; got != want {
			return fmt.Errorf("annotation %q is %v, want %q", k, got, want)
		}
	}
	if a.Payload != nil && !equalJSON(a.Payload, e.Event.Payload) {
		return fmt.Errorf("payload is %.100s, want %.100s", e.Event.Payload, a.Payload)
	}
	if a.Text != "" {
		return a.compareText(e)
	}
	return nil
}

func (a *arrival) compareText(e event) error {
	var text string
	if err := json.Unmarshal(e.Event.Payload, &text); err != nil {
		text = string(e.Event.Payload) // JSON is shown as it is
	}
	if e.Event.PayloadEncoding == "base64" {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return fmt.Errorf("payload: %w", err)
		}
		text = string(raw)
	}
	if text != a.Text {
		return fmt.Errorf("payload is %.100q (%d bytes), want %.100q (%d bytes)", text, len(text), a.Text, len(a.Text))
	}
	return nil
}

func equalJSON(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	left, err1 := json.Marshal(x) // keys in order
	right, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && bytes.Equal(left, right)
}

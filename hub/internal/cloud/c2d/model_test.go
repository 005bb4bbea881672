package c2d_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/c2d"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// modelMessage is a message as the model sees it.
type modelMessage struct {
	name                 string
	seq                  int
	expires              time.Time
	deliveries, abandons int
	ack                  string
	holder               *modelLock
	gone                 bool
}

// modelLock is one delivery.
type modelLock struct {
	m       *modelMessage
	token   string
	until   time.Time
	sub     int // which subscription; 0 for Receive
	epoch   int
	settled func(head.Outcome) bool
}

// modelRecord is feedback to come.
type modelRecord struct {
	text  string // "status name"
	at    time.Time
	tries int
}

// handed is what a subscription was given.
type handed struct {
	m       *iothub.Message
	settled func(head.Outcome) bool
}

// model runs one queue beside its model.
type model struct {
	t       *rapid.T
	store   *store.Store
	clock   sync.Mutex // the queues read it at any time
	now     time.Time
	q       *c2d.Queues
	id      iothub.Identity
	sent    int
	last    int
	waiting []*modelMessage
	locks   []*modelLock // that were given out and are not settled
	told    []*modelRecord

	sub     *c2d.Subscription
	subID   int // 0: none
	epoch   int
	paused  bool
	pausing bool // abandon pauses
	from    int
	handed  chan handed
}

func (m *model) options() c2d.Options {
	return c2d.Options{MaxDeliveries: 3, Now: func() time.Time {
		m.clock.Lock()
		defer m.clock.Unlock()
		return m.now
	}}
}

func (m *model) open() {
	var err error
	if m.q, err = c2d.Open(m.store, m.options()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) end(msg *modelMessage, status string) {
	msg.gone, msg.holder = true, nil
	m.waiting = slices.DeleteFunc(m.waiting, func(o *modelMessage) bool { return o == msg })
	if msg.ack == "full" || msg.ack == "positive" && status == "Success" || msg.ack == "negative" && status != "Success" {
		m.told = append(m.told, &modelRecord{text: status + " " + msg.name, at: m.now})
	}
}

func (m *model) release(msg *modelMessage) {
	msg.holder = nil
	msg.deliveries++
}

func (m *model) next(from int) *modelMessage {
	for _, msg := range m.waiting {
		if msg.holder == nil && msg.seq >= from && msg.expires.After(m.now) {
			return msg
		}
	}
	return nil
}

func (m *model) lock(msg *modelMessage, sub int, got *iothub.Message, settled func(head.Outcome) bool) {
	if name := string(got.Body); name != msg.name || got.System.Get(iothub.SequenceNumber) != fmt.Sprint(msg.seq) ||
		got.System.Get(iothub.DeliveryCount) != fmt.Sprint(msg.deliveries) || got.System.Get(iothub.MessageID) != msg.name {
		m.t.Fatalf("got %s %v, want %+v", name, got.System, msg)
	}
	l := &modelLock{m: msg, token: got.System.Get(iothub.LockToken), until: m.now.Add(time.Minute), sub: sub, epoch: m.epoch, settled: settled}
	msg.holder = l
	m.locks = append(m.locks, l)
}

// pump takes what the subscription must have been given.
func (m *model) pump() {
	for m.subID != 0 && !m.paused {
		unsettled := 0
		for _, l := range m.locks {
			if l.sub == m.subID {
				unsettled++
			}
		}
		msg := m.next(m.from)
		if unsettled >= c2d.Window || msg == nil {
			return
		}
		select {
		case h := <-m.handed:
			m.lock(msg, m.subID, h.m, h.settled)
		case <-time.After(patience):
			m.t.Fatalf("%s was not handed out", msg.name)
		}
	}
}

func (m *model) send(t *rapid.T) {
	name := fmt.Sprint("m", m.sent)
	ack := rapid.SampledFrom([]string{"", "none", "positive", "negative", "full"}).Draw(t, "ack")
	ttl := time.Duration(rapid.IntRange(0, 300).Draw(t, "ttl")) * time.Second
	msg := &iothub.Message{Body: []byte(name)}
	msg.System.Set(iothub.MessageID, name)
	if ack != "" {
		msg.System.Set(iothub.Ack, ack)
	}
	expires := m.now.Add(time.Hour)
	if ttl > 0 {
		expires = m.now.Add(ttl)
		msg.System.Set(iothub.AbsoluteExpiryTime, expires.Format(time.RFC3339))
	}
	err := m.q.Send(t.Context(), m.id, "g", msg)
	if len(m.waiting) >= c2d.MaxPending {
		if !errors.Is(err, c2d.ErrFull) {
			t.Fatalf("one too many: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.sent++
	m.last++
	m.waiting = append(m.waiting, &modelMessage{name: name, seq: m.last, expires: expires, ack: ack})
}

func (m *model) receive(t *rapid.T) {
	got, err := m.q.Receive(m.id)
	if err != nil {
		t.Fatal(err)
	}
	msg := m.next(0)
	if (got == nil) != (msg == nil) {
		t.Fatalf("received %v, want %v", got, msg)
	}
	if got != nil {
		m.lock(msg, 0, got, nil)
	}
}

// apply is the outcome of a delivery that holds its lock, or may end the message
// without.
func (m *model) apply(msg *modelMessage, o head.Outcome) {
	switch o {
	case head.Complete:
		m.end(msg, "Success")
	case head.Reject:
		m.end(msg, "Rejected")
	case head.Abandon:
		if msg.abandons++; msg.abandons >= 3 {
			m.end(msg, "DeliveryCountExceeded")
			return
		}
		m.release(msg)
	case head.Lost:
		m.release(msg)
	}
}

func (m *model) settle(t *rapid.T) {
	if len(m.locks) == 0 {
		t.Skip("nothing is out")
	}
	i := rapid.IntRange(0, len(m.locks)-1).Draw(t, "which")
	o := rapid.SampledFrom([]head.Outcome{head.Complete, head.Reject, head.Abandon, head.Abandon, head.Lost}).Draw(t, "outcome")
	l := m.locks[i]
	m.locks = slices.Delete(m.locks, i, i+1)
	msg := l.m
	if l.settled == nil {
		err := m.q.Settle(t.Context(), m.id, l.token, o)
		if lost := msg.holder != l; lost != errors.Is(err, c2d.ErrLockLost) {
			t.Fatalf("settle: %v, lock lost %v", err, lost)
		}
		if msg.holder == l {
			m.apply(msg, o)
		}
		return
	}
	l.settled(o)
	pause := o == head.Lost || o == head.Abandon && m.pausing
	if pause && l.epoch == m.epoch && l.sub == m.subID {
		m.paused = true
	}
	final := o == head.Complete || o == head.Reject
	switch {
	case msg.gone:
	case msg.holder == l && o == head.Abandon && m.pausing:
		msg.holder = nil
	case msg.holder == l, final && (msg.holder == nil || msg.holder.sub == l.sub):
		m.apply(msg, o)
	}
}

func (m *model) pass(t *rapid.T) {
	d := time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second
	m.clock.Lock()
	m.now = m.now.Add(d)
	m.clock.Unlock()
	for _, msg := range slices.Clone(m.waiting) {
		if msg.holder != nil && !msg.holder.until.After(m.now) {
			m.release(msg)
		}
		if msg.holder == nil && !msg.expires.After(m.now) {
			m.end(msg, "Expired")
		}
	}
	m.barrier()
	m.q.Sweep()
	m.told = slices.DeleteFunc(m.told, func(r *modelRecord) bool { return m.now.Sub(r.at) >= time.Hour })
}

func (m *model) purge(t *rapid.T) {
	n, err := m.q.Purge(t.Context(), m.id)
	if err != nil || n != len(m.waiting) {
		t.Fatalf("purged %d of %d: %v", n, len(m.waiting), err)
	}
	for len(m.waiting) > 0 {
		m.end(m.waiting[0], "Purged")
	}
}

func (m *model) subscribe(t *rapid.T) {
	if m.subID != 0 {
		t.Skip("there is one")
	}
	m.subscribeAs(rapid.Bool().Draw(t, "only new"))
}

func (m *model) subscribeAs(onlyNew bool) {
	m.epoch++
	m.subID, m.paused, m.from = m.epoch, false, 0
	if onlyNew {
		m.from = m.last + 1
	}
	m.handed = make(chan handed, 1000)
	c := m.handed
	m.sub = m.q.Subscribe(m.id, c2d.SubscribeOptions{OnlyNew: onlyNew, AbandonPauses: m.pausing,
		Deliver: func(msg *iothub.Message, settled func(head.Outcome) bool) { c <- handed{msg, settled} }})
}

func (m *model) resume(t *rapid.T) {
	if m.subID == 0 {
		t.Skip("no subscription")
	}
	m.epoch++
	m.paused = false
	m.sub.Resume()
}

func (m *model) unsubscribe(t *rapid.T) {
	if m.subID == 0 {
		t.Skip("no subscription")
	}
	m.sub.Close()
	m.subID = 0
}

// reopen is the end of the process and a new one: locks are gone, nothing else.
func (m *model) reopen(t *rapid.T) {
	m.q.Drain()
	m.barrier()
	m.locks, m.subID = nil, 0
	for _, msg := range m.waiting {
		msg.holder = nil
	}
	for _, r := range m.told {
		r.tries = 0
	}
	m.open()
	m.pass(t)
}

// barrier waits for all earlier writes.
func (m *model) barrier() {
	if err := m.store.CommitWait(m.t.Context(), &store.Batch{}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) feedback(t *rapid.T) {
	m.barrier()
	o := rapid.SampledFrom([]head.Outcome{head.Complete, head.Abandon, head.Lost}).Draw(t, "outcome")
	b := m.q.FeedbackNow()
	if b == nil {
		if len(m.told) > 0 {
			t.Fatalf("no feedback, want %d", len(m.told))
		}
		return
	}
	var docs []struct{ StatusCode, OriginalMessageID, DeviceID, DeviceGenerationID string }
	if err := json.Unmarshal(b.Body, &docs); err != nil {
		t.Fatal(err)
	}
	if want := min(64, len(m.told)); len(docs) != want {
		t.Fatalf("%d records, want %d", len(docs), want)
	}
	for _, d := range docs {
		// The order of what ended at the same time is nobody's business.
		i := slices.IndexFunc(m.told, func(r *modelRecord) bool { return r.text == d.StatusCode+" "+d.OriginalMessageID })
		if i < 0 || d.DeviceID != m.id.Device || d.DeviceGenerationID != "g" {
			t.Fatalf("record %+v", d)
		}
		if o == head.Abandon {
			m.told[i].tries++
		}
		if o == head.Complete || m.told[i].tries >= 10 {
			m.told = slices.Delete(m.told, i, i+1)
		}
	}
	if err := m.q.SettleFeedback(t.Context(), b.Token, o); err != nil {
		t.Fatal(err)
	}
}

func (m *model) check(t *rapid.T) {
	m.pump()
	if n := m.q.Depth(m.id); n != len(m.waiting) {
		t.Fatalf("depth %d, want %d", n, len(m.waiting))
	}
	select {
	case h := <-m.handed:
		t.Fatalf("handed out too much: %s", h.m.Body)
	default:
	}
}

func TestQueueBehavesAsItsModel(t *testing.T) {
	s, err := store.Open("", store.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &model{t: t, store: s, now: time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC), handed: make(chan handed, 1000),
			id: iothub.DeviceIdentity(fmt.Sprint("d", run)), pausing: rapid.Bool().Draw(t, "abandon pauses")}
		m.open()
		defer func() {
			m.q.Forget(m.id)
			m.q.Drain()
			m.barrier()
			for b := m.q.FeedbackNow(); b != nil; b = m.q.FeedbackNow() {
				if err := m.q.SettleFeedback(t.Context(), b.Token, head.Complete); err != nil {
					t.Error(err)
				}
			}
		}()
		t.Repeat(map[string]func(*rapid.T){
			"": m.check, "send": m.send, "send too": m.send, "send again": m.send, "receive": m.receive, "settle": m.settle, "settle more": m.settle,
			"pass": m.pass, "purge": m.purge, "subscribe": m.subscribe, "resume": m.resume, "unsubscribe": m.unsubscribe,
			"reopen": m.reopen, "feedback": m.feedback,
		})
	})
}

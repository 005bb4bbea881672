package c2d_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/cloud/c2d"
	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/store"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// patience bounds every wait of these tests.
const patience = 10 * time.Second

var dev = iothub.DeviceIdentity("dev")

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open("", store.Options{InMemory: true, ReclaimInterval: 1000 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func open(t *testing.T, s *store.Store, o c2d.Options) *c2d.Queues {
	t.Helper()
	q, err := c2d.Open(s, o)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// run runs the queues until the test ends.
func run(t *testing.T, q *c2d.Queues) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func message(body string, system ...string) *iothub.Message {
	m := &iothub.Message{Body: []byte(body)}
	for i := 0; i+1 < len(system); i += 2 {
		m.System.Set(system[i], system[i+1])
	}
	return m
}

func send(t *testing.T, q *c2d.Queues, id iothub.Identity, m *iothub.Message) {
	t.Helper()
	if err := q.Send(t.Context(), id, "g", m); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, q *c2d.Queues, id iothub.Identity) *iothub.Message {
	t.Helper()
	m, err := q.Receive(id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// statuses reads a batch of feedback.
func statuses(t *testing.T, b *c2d.Batch) string {
	t.Helper()
	var docs []struct{ OriginalMessageID, StatusCode string }
	if err := json.Unmarshal(b.Body, &docs); err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, d := range docs {
		list = append(list, d.OriginalMessageID+" "+d.StatusCode)
	}
	return strings.Join(list, ", ")
}

func TestMessagesThatAreRefused(t *testing.T) {
	q := open(t, openStore(t), c2d.Options{})
	long := strings.Repeat("x", 129)
	for _, tt := range []struct {
		name string
		m    *iothub.Message
		want error
	}{
		{"as large as allowed", message(strings.Repeat("x", c2d.MaxSize)), nil},
		{"one byte more", message(strings.Repeat("x", c2d.MaxSize+1)), c2d.ErrTooLarge},
		{"properties count", &iothub.Message{Body: make([]byte, c2d.MaxSize-9), Properties: iothub.Properties{{Name: "name", Value: "value+"}}}, c2d.ErrTooLarge},
		{"ack of no kind", message("", iothub.Ack, "some"), c2d.ErrInvalid},
		{"ack in capitals", message("", iothub.Ack, "Full"), nil},
		{"long message id", message("", iothub.MessageID, long), c2d.ErrInvalid},
		{"long user id", message("", iothub.UserID, long), nil},
		{"expiry that is none", message("", iothub.AbsoluteExpiryTime, "tomorrow"), c2d.ErrInvalid},
		{"expiry of .NET", message("", iothub.AbsoluteExpiryTime, "2126-11-23T04:00:00.0000000Z"), nil},
		{"expiry of the year 1", message("", iothub.AbsoluteExpiryTime, "0001-01-01T00:00:00Z"), nil},
		{"not UTF-8", message("", iothub.CorrelationID, "\xff"), c2d.ErrInvalid},
		{"much to escape", &iothub.Message{Properties: iothub.Properties{{Name: "p", Value: strings.Repeat("<", 60000)}}}, nil},
	} {
		if err := q.Send(t.Context(), dev, "g", tt.m); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestWhatTheHubStampsOnAMessage(t *testing.T) {
	now := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	q := open(t, openStore(t), c2d.Options{Now: func() time.Time { return now }})
	sent := message("body", iothub.MessageID, "m1", iothub.CorrelationID, "", iothub.To, "elsewhere", iothub.DeliveryCount, "7",
		iothub.ConnectionDeviceID, "somebody", iothub.AbsoluteExpiryTime, "2026-11-23T05:30:00+01:00", iothub.ContentType, "text/plain")
	sent.Properties.Set("k", "v")
	module := iothub.ModuleIdentity("a b", "m#1")
	send(t, q, module, sent)
	m := take(t, q, module)
	token := m.System.Get(iothub.LockToken)
	if len(token) != 36 {
		t.Errorf("lock token %q", token)
	}
	m.System.Delete(iothub.LockToken)
	got := fmt.Sprint(m.System, " ", m.Properties, " ", string(m.Body))
	want := `[{messageId m1 false} {absolute-expiry-time 2026-11-23T04:30:00.0000000Z false} {contentType text/plain false} ` +
		`{to /devices/a%20b/modules/m%231/messages/deviceBound false} {sequenceNumber 1 false} ` +
		`{enqueuedTime 2026-11-23T04:00:00.0000000Z false} {deliveryCount 0 false}] [{k v false}] body`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMessagesExpireAndLocksRunOutByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, openStore(t), c2d.Options{})
		run(t, q)
		send(t, q, dev, message("1", iothub.MessageID, "default", iothub.Ack, "full"))
		send(t, q, dev, message("2", iothub.MessageID, "soon", iothub.Ack, "negative",
			iothub.AbsoluteExpiryTime, time.Now().Add(10*time.Minute).Format(time.RFC3339)))
		send(t, q, dev, message("3", iothub.MessageID, "past", iothub.Ack, "negative",
			iothub.AbsoluteExpiryTime, time.Now().Add(-time.Minute).Format(time.RFC3339)))
		start := time.Now()
		if m := take(t, q, dev); string(m.Body) != "1" {
			t.Fatalf("got %s", m.Body)
		}
		time.Sleep(time.Minute + time.Second)
		m := take(t, q, dev)
		if string(m.Body) != "1" || m.System.Get(iothub.DeliveryCount) != "1" {
			t.Errorf("after the lock: %s %v", m.Body, m.System)
		}
		if err := q.Settle(t.Context(), dev, m.System.Get(iothub.LockToken), head.Abandon); err != nil {
			t.Error(err)
		}
		for _, want := range []struct {
			text string
			at   time.Duration
		}{
			{"past Expired", time.Minute}, {"soon Expired", 10 * time.Minute}, {"default Expired", time.Hour},
		} {
			b, err := q.Feedback(t.Context())
			if err != nil || statuses(t, b) != want.text {
				t.Fatalf("feedback %v, %v; want %s", b, err, want.text)
			}
			if at := time.Since(start); at > want.at+2*time.Second || want.at > time.Minute && at < want.at-time.Second {
				t.Errorf("%s after %v", want.text, at)
			}
			if err := q.SettleFeedback(t.Context(), b.Token, head.Complete); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNothingWaitsForMoreThanTwoDays(t *testing.T) {
	now := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	q := open(t, openStore(t), c2d.Options{Now: func() time.Time { return now }})
	send(t, q, dev, message("", iothub.AbsoluteExpiryTime, now.Add(1000*time.Hour).Format(time.RFC3339)))
	now = now.Add(c2d.MaxTTL - 1)
	if next := q.Sweep(); !next.Equal(now.Add(1)) || q.Depth(dev) != 1 {
		t.Errorf("due at %v, %d left", next, q.Depth(dev))
	}
	now = now.Add(1)
	if q.Sweep(); q.Depth(dev) != 0 {
		t.Error("still there after two days")
	}
}

func TestFeedbackWaitsForMoreAndIsHeldForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, openStore(t), c2d.Options{FeedbackDelay: 15 * time.Second})
		run(t, q)
		end := func(n int) {
			for i := range n {
				send(t, q, dev, message("", iothub.MessageID, fmt.Sprint(i), iothub.Ack, "full"))
				if err := q.Settle(t.Context(), dev, take(t, q, dev).System.Get(iothub.LockToken), head.Complete); err != nil {
					t.Fatal(err)
				}
			}
		}
		feedback := func(count int, after time.Duration) *c2d.Batch {
			t.Helper()
			start := time.Now()
			b, err := q.Feedback(t.Context())
			if err != nil || bytes.Count(b.Body, []byte("Success")) != 2*count || time.Since(start) != after {
				t.Fatalf("%s after %v: %v", b.Body, time.Since(start), err)
			}
			return b
		}
		end(3)
		b := feedback(3, 15*time.Second)
		if q.FeedbackNow() != nil {
			t.Error("locked feedback was given out")
		}
		if err := q.SettleFeedback(t.Context(), b.Token, head.Abandon); err != nil {
			t.Error(err)
		}
		end(63)
		b = feedback(64, 0)
		time.Sleep(61 * time.Second) // its lock
		if err := q.SettleFeedback(t.Context(), b.Token, head.Complete); !errors.Is(err, c2d.ErrLockLost) {
			t.Errorf("settled after the lock: %v", err)
		}
		b = feedback(64, 0)
		if err := q.SettleFeedback(t.Context(), b.Token, head.Complete); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if b := q.FeedbackNow(); b != nil {
			t.Errorf("after an hour: %s", b.Body)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := q.Feedback(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestWindowOfTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, openStore(t), c2d.Options{})
		run(t, q)
		for i := range 5 {
			send(t, q, dev, message(fmt.Sprint(i)))
		}
		credit := 0
		var out []handed
		s := q.Subscribe(dev, c2d.SubscribeOptions{Window: func() int { return credit },
			Deliver: func(m *iothub.Message, settled func(head.Outcome) bool) { out = append(out, handed{m, settled}) }})
		for _, n := range []int{0, 1, 3} {
			synctest.Wait() // nobody asks for the window while it changes
			credit = n
			s.Resume()
			synctest.Wait()
			if len(out) != n {
				t.Fatalf("%d handed out with a window of %d", len(out), n)
			}
		}
		first, second := out[0], out[1]
		second.settled(head.Complete)
		second.settled(head.Abandon) // a second time: nothing
		synctest.Wait()
		if len(out) != 4 || q.Depth(dev) != 4 {
			t.Errorf("%d handed out, %d wait", len(out), q.Depth(dev))
		}
		s.Close()
		first.settled(head.Complete)
		synctest.Wait()
		if len(out) != 4 || q.Depth(dev) != 3 {
			t.Errorf("after the end: %d handed out, %d wait", len(out), q.Depth(dev))
		}
	})
}

func TestClientThatSettlesNothingIsStuck(t *testing.T) {
	now := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	q := open(t, openStore(t), c2d.Options{Now: func() time.Time { return now }})
	for i := range 20 {
		send(t, q, dev, message(fmt.Sprint(i)))
	}
	out := make(chan handed, 100)
	stuck := 0
	s := q.Subscribe(dev, c2d.SubscribeOptions{Stuck: func() { stuck++ },
		Deliver: func(m *iothub.Message, settled func(head.Outcome) bool) { out <- handed{m, settled} }})
	defer q.Drain()
	defer s.Close()
	var first handed
	for i := range c2d.Window {
		select {
		case h := <-out:
			if i == 0 {
				first = h
			}
		case <-time.After(patience):
			t.Fatalf("only %d handed out", i)
		}
	}
	now = now.Add(50 * time.Second)
	first.settled(head.Complete)
	select {
	case first = <-out: // its lock is younger
	case <-time.After(patience):
		t.Fatal("no other is handed out")
	}
	now = now.Add(20 * time.Second)
	if q.Sweep(); stuck != 0 {
		t.Error("stuck although one was settled in time")
	}
	now = now.Add(time.Minute)
	if q.Sweep(); stuck != 1 {
		t.Errorf("stuck %d times", stuck)
	}
	first.settled(head.Complete)
	if got := q.Depth(dev); got != 18 {
		t.Errorf("%d left", got)
	}
}

func TestSendersAtTheSameTimeFillTheQueueAndNoMore(t *testing.T) {
	q := open(t, openStore(t), c2d.Options{})
	results := make(chan error, 100)
	for i := range 100 {
		go func() { results <- q.Send(t.Context(), dev, "g", message(fmt.Sprint(i))) }()
	}
	full := 0
	for range 100 {
		switch err := <-results; {
		case errors.Is(err, c2d.ErrFull):
			full++
		case err != nil:
			t.Error(err)
		}
	}
	if full != 50 || q.Depth(dev) != c2d.MaxPending {
		t.Errorf("%d refused, %d wait", full, q.Depth(dev))
	}
	for i := range c2d.MaxPending {
		if m := take(t, q, dev); m.System.Get(iothub.SequenceNumber) != fmt.Sprint(i+1) {
			t.Fatalf("message %d is %v", i, m.System)
		}
	}
}

func TestOpenDropsMessagesOfIdentitiesThatAreNoMore(t *testing.T) {
	s := openStore(t)
	q := open(t, s, c2d.Options{})
	other := iothub.DeviceIdentity("other")
	send(t, q, dev, message("1"))
	send(t, q, other, message("2"))
	q = open(t, s, c2d.Options{Known: func(id iothub.Identity, g string) bool { return id == other && g == "g" }})
	if q.Depth(dev) != 0 || q.Depth(other) != 1 {
		t.Errorf("%d and %d messages", q.Depth(dev), q.Depth(other))
	}
	if err := s.CommitWait(t.Context(), &store.Batch{}); err != nil {
		t.Fatal(err)
	}
	if q = open(t, s, c2d.Options{}); q.Depth(dev) != 0 {
		t.Error("they are back")
	}
}

func TestForgottenQueueLeavesNothing(t *testing.T) {
	s := openStore(t)
	q := open(t, s, c2d.Options{})
	send(t, q, dev, message("1"))
	if err := q.Settle(t.Context(), dev, take(t, q, dev).System.Get(iothub.LockToken), head.Abandon); err != nil {
		t.Fatal(err)
	}
	q.Forget(dev)
	q.Forget(dev)
	if err := s.CommitWait(t.Context(), &store.Batch{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Scan([]byte("b\x00cloud.c2d"), nil, func(k, _ []byte) error {
		t.Errorf("left: %q", k)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	send(t, q, dev, message("2"))
	if m := take(t, q, dev); string(m.Body) != "2" || m.System.Get(iothub.SequenceNumber) != "1" {
		t.Errorf("got %s %v", m.Body, m.System)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"generation":"g","enqueued":"2026-11-23T04:00:00Z","expires":"2026-11-23T05:00:00Z","system":[{"Name":"n","Value":"v"}],"body":"Ym9keQ=="}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		first, err := c2d.DecodeRecord(raw)
		if err != nil {
			return
		}
		if again, err := c2d.DecodeRecord(first); err != nil || !bytes.Equal(first, again) {
			t.Fatalf("%s became %s, %v", first, again, err)
		}
	})
}

func FuzzParseMessageKey(f *testing.F) {
	f.Add("d/m\x000000000000000001")
	f.Add("d")
	f.Fuzz(func(t *testing.T, k string) {
		if _, again, err := c2d.ParseMessageKey(k); err == nil && again != strings.ToLower(k) && again != k {
			t.Fatalf("%q became %q", k, again)
		}
	})
}

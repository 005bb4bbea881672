package dispatch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-iot/breakwater/hub/internal/dispatch"
	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

const never = -time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// rig is an engine over queues in memory.
type rig struct {
	t    *testing.T
	q    *queue.Queue
	e    *dispatch.Engine
	log  bytes.Buffer // read after stop
	stop func()

	mu      sync.Mutex
	dropped map[string]int // guarded by mu
	sent    int            // guarded by mu
	retries int            // guarded by mu
}

// counts returns how many messages were sent, dropped for the reason, repeated.
func (r *rig) counts(reason string) (sent, dropped, retries int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent, r.dropped[reason], r.retries
}

func newRig(t *testing.T, o dispatch.Options) *rig {
	t.Helper()
	r := &rig{t: t, dropped: make(map[string]int)}
	logger := slog.New(slog.NewTextHandler(&r.log, nil))
	var err error
	r.q, err = queue.Open(simdisk.New().Folder(), queue.Options{
		Logger:  logger,
		Expired: func(*iothub.Message) { r.count("queue ttl_expiry") },
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Logger = logger
	o.Hooks = dispatch.Hooks{
		Sent:    func(*iothub.Message, dispatch.Info, time.Duration) { r.mu.Lock(); r.sent++; r.mu.Unlock() },
		Dropped: func(_ *iothub.Message, _ dispatch.Info, reason string) { r.count(reason) },
		Retry:   func(*iothub.Message, dispatch.Info, error) { r.mu.Lock(); r.retries++; r.mu.Unlock() },
	}
	r.e = dispatch.New(r.q, o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.e.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := r.q.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) count(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped[reason]++
}

func (r *rig) configure(sinks map[string]dispatch.Sink) {
	r.t.Helper()
	synctest.Wait() // Run has begun
	if err := r.e.Reconfigure(r.t.Context(), sinks); err != nil {
		r.t.Fatal(err)
	}
}

// append stores a message "sender:text" for one endpoint.
func (r *rig) append(endpoint string, priority uint32, ttl time.Duration, bodies ...string) {
	r.t.Helper()
	for _, body := range bodies {
		m := &iothub.Message{Body: []byte(body)}
		sender, _, _ := strings.Cut(body, ":")
		m.System.Set(iothub.ConnectionDeviceID, sender)
		done := make(chan error, 1)
		r.q.Append(m, []queue.Target{{Endpoint: endpoint, Priority: priority, TTL: ttl}}, func(err error) { done <- err })
		if err := <-done; err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) length() int {
	n := 0
	for _, l := range r.q.Lengths() {
		n += l.Messages
	}
	return n
}

// sink records what it gets and answers by a function.
type sink struct {
	mu       sync.Mutex
	window   int
	got      []string // every delivery
	taken    []string // those that succeeded
	at       []time.Time
	attempts []int
	flight   int
	most     int
	answer   func(body string, attempt int) error
	delay    time.Duration
}

func (s *sink) Window() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.window
}

func (s *sink) setWindow(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.window = n
}

func (s *sink) Deliver(m *iothub.Message, info dispatch.Info, done func(error)) {
	s.mu.Lock()
	body := string(m.Body)
	s.got = append(s.got, body)
	s.at = append(s.at, time.Now())
	s.attempts = append(s.attempts, info.Attempt)
	s.flight++
	s.most = max(s.most, s.flight)
	var err error
	if s.answer != nil {
		err = s.answer(body, info.Attempt)
	}
	delay := s.delay
	s.mu.Unlock()
	finish := func() {
		s.mu.Lock()
		s.flight--
		if err == nil {
			s.taken = append(s.taken, body)
		}
		s.mu.Unlock()
		done(err)
	}
	if delay == 0 {
		finish()
		return
	}
	time.AfterFunc(delay, finish)
}

func (s *sink) list() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.got, " ")
}

func (s *sink) takenList() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.taken, " ")
}

type senderSink struct{ *sink }

func (senderSink) OrderedBySender() {}

var errDown = errors.New("down")

// bubble runs the test in virtual time.
func bubble(t *testing.T, o dispatch.Options, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, o)
		defer r.stop()
		test(t, r)
	})
}

func TestMessagesAreDeliveredInOrderWithinTheWindow(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		s := &sink{window: 4, delay: time.Millisecond}
		r.configure(map[string]dispatch.Sink{"e": s})
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprintf("d:%d", i))
		}
		r.append("e", 0, never, want...)
		time.Sleep(time.Second)
		if s.list() != strings.Join(want, " ") {
			t.Errorf("got %s", s.list())
		}
		s.mu.Lock()
		if s.most > 4 {
			t.Errorf("%d in flight", s.most)
		}
		s.mu.Unlock()
		if sent, _, _ := r.counts(""); r.length() != 0 || sent != 40 {
			t.Errorf("%d left, %d counted as sent", r.length(), sent)
		}
	})
}

func TestFailedMessageIsSentAgainBeforeLaterOnes(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		down := true
		s := &sink{window: 3, delay: time.Millisecond}
		s.answer = func(body string, attempt int) error {
			if down {
				return errDown
			}
			return nil
		}
		r.configure(map[string]dispatch.Sink{"e": s})
		r.append("e", 0, never, "d:0", "d:1", "d:2", "d:3", "d:4")
		time.Sleep(5 * time.Minute)
		s.mu.Lock()
		down = false
		for _, body := range s.got[3:] {
			if body != "d:0" {
				t.Errorf("%s was sent while d:0 failed", body)
			}
		}
		s.got = nil
		s.mu.Unlock()
		time.Sleep(time.Minute + time.Second)
		if got := s.list(); got != "d:0 d:1 d:2 d:3 d:4" {
			t.Errorf("sent in the end: %s", got)
		}
		if r.length() != 0 {
			t.Errorf("%d left", r.length())
		}
	})
}

func TestRetryDelayGrowsToAMinute(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		s := &sink{window: 1, answer: func(string, int) error { return errDown }}
		r.configure(map[string]dispatch.Sink{"e": s})
		r.append("e", 0, never, "d:0")
		time.Sleep(30 * time.Minute)
		s.mu.Lock()
		defer s.mu.Unlock()
		for n := 1; n < len(s.at); n++ {
			got := s.at[n].Sub(s.at[n-1])
			pow := float64(int(1)<<min(n, 20) - 1)
			low := min(time.Duration((1+pow*0.8)*float64(time.Second)), time.Minute)
			high := min(time.Duration((1+pow*1.2)*float64(time.Second)), time.Minute)
			if got < low-time.Millisecond || got > high+time.Millisecond {
				t.Errorf("delay %d is %v, want %v to %v", n, got, low, high)
			}
			if s.attempts[n] != n+1 {
				t.Errorf("attempt %d said %d", n+1, s.attempts[n])
			}
		}
		if len(s.at) < 25 {
			t.Errorf("%d attempts in 30 minutes", len(s.at))
		}
	})
}

func TestNotReadyEndpointWaitsForWake(t *testing.T) {
	for name, closed := range map[string]func(*sink, bool){
		"window": func(s *sink, closed bool) {
			s.setWindow(map[bool]int{true: 0, false: 8}[closed])
		},
		"result": func(s *sink, closed bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.window = 8
			s.answer = func(string, int) error {
				if closed {
					return dispatch.ErrNotReady
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
				s := &sink{}
				closed(s, true)
				r.configure(map[string]dispatch.Sink{"e": s})
				r.append("e", 0, never, "d:0", "d:1", "d:2")
				time.Sleep(time.Hour + 137*time.Millisecond)
				if got := s.takenList(); got != "" {
					t.Fatalf("taken %s", got)
				}
				closed(s, false)
				start := time.Now()
				r.e.Wake("e")
				synctest.Wait()
				if got := s.takenList(); got != "d:0 d:1 d:2" {
					t.Errorf("taken %q", got)
				}
				if time.Since(start) != 0 {
					t.Error("it took time")
				}
				closed(s, true)
				r.append("e", 0, never, "d:3")
				synctest.Wait()
				closed(s, false)
				time.Sleep(time.Minute) // nobody wakes it
				if got := s.takenList(); got != "d:0 d:1 d:2 d:3" {
					t.Errorf("without wake: taken %q", got)
				}
			})
		})
	}
}

func TestWakeDuringADeliveryIsNotLost(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		s := &sink{window: 1, delay: time.Millisecond}
		first := true
		s.answer = func(string, int) error {
			if first {
				first = false
				return dispatch.ErrNotReady
			}
			return nil
		}
		r.configure(map[string]dispatch.Sink{"e": s})
		r.append("e", 0, never, "d:0")
		synctest.Wait() // it is in flight
		r.e.Wake("e")
		time.Sleep(10 * time.Millisecond)
		if got := s.takenList(); got != "d:0" {
			t.Errorf("taken %q", got)
		}
	})
}

func TestPermanentFailureDropsOneMessage(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		s := &sink{window: 2, delay: time.Millisecond}
		s.answer = func(body string, _ int) error {
			if body == "d:1" {
				return fmt.Errorf("%w: device is disabled", dispatch.ErrPermanent)
			}
			return nil
		}
		r.configure(map[string]dispatch.Sink{"e": s})
		r.append("e", 0, never, "d:0", "d:1", "d:2")
		time.Sleep(100 * time.Millisecond)
		if got := s.takenList(); got != "d:0 d:2" {
			t.Errorf("taken %s", got)
		}
		if _, dropped, retries := r.counts("permanent"); r.length() != 0 || dropped != 1 || retries != 0 {
			t.Errorf("%d left, %d dropped, %d retries", r.length(), dropped, retries)
		}
	})
}

func TestFailingSenderDoesNotBlockOthersUpToTheBound(t *testing.T) {
	bubble(t, dispatch.Options{Held: 10}, func(t *testing.T, r *rig) {
		s := senderSink{&sink{window: 4}}
		down := true
		s.answer = func(body string, _ int) error {
			if down && strings.HasPrefix(body, "bad:") {
				return errDown
			}
			return nil
		}
		r.configure(map[string]dispatch.Sink{"e": s})
		for i := range 9 {
			r.append("e", 0, never, fmt.Sprintf("bad:%d", i), fmt.Sprintf("good:%d", i))
		}
		time.Sleep(10 * time.Millisecond)
		if got := s.takenList(); got != "good:0 good:1 good:2 good:3 good:4 good:5 good:6 good:7 good:8" {
			t.Fatalf("taken %s", got)
		}
		r.append("e", 0, never, "bad:9", "good:9")
		synctest.Wait()
		if got := s.takenList(); strings.Contains(got, "good:9") {
			t.Error("more is held than allowed")
		}
		s.mu.Lock()
		down, s.taken = false, nil
		s.mu.Unlock()
		time.Sleep(2 * time.Minute)
		got := strings.Fields(s.takenList())
		bad := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s == "good:9" })
		if len(got) != 11 || strings.Join(bad, " ") != "bad:0 bad:1 bad:2 bad:3 bad:4 bad:5 bad:6 bad:7 bad:8 bad:9" {
			t.Errorf("taken %s", got)
		}
		if r.length() != 0 {
			t.Errorf("%d left", r.length())
		}
	})
}

func TestUrgentMessageOvertakesOthers(t *testing.T) {
	t.Run("waiting in the queue", func(t *testing.T) {
		bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
			s := &sink{window: 1, delay: 10 * time.Millisecond}
			r.configure(map[string]dispatch.Sink{"e": s})
			r.append("e", queue.DefaultPriority, never, "d:low0", "d:low1", "d:low2")
			synctest.Wait() // the first is under way
			r.append("e", 0, never, "d:high")
			time.Sleep(time.Second)
			if got := s.takenList(); got != "d:low0 d:high d:low1 d:low2" {
				t.Errorf("taken %s", got)
			}
		})
	})
	t.Run("being retried", func(t *testing.T) {
		bubble(t, dispatch.Options{Held: 4}, func(t *testing.T, r *rig) {
			s := &sink{window: 8}
			s.answer = func(body string, _ int) error {
				if strings.Contains(body, "low") {
					return errDown
				}
				return nil
			}
			r.configure(map[string]dispatch.Sink{"e": s})
			for i := range 20 {
				r.append("e", queue.DefaultPriority, never, fmt.Sprintf("d:low%d", i))
			}
			time.Sleep(30 * time.Second)
			r.append("e", 0, never, "d:high")
			synctest.Wait()
			if got := s.takenList(); got != "d:high" {
				t.Errorf("taken %q", got)
			}
		})
	})
}

func TestSlowEndpointDelaysNoOther(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		dead, fast := &sink{window: 1, delay: 1000 * time.Hour}, &sink{window: 10}
		r.configure(map[string]dispatch.Sink{"dead": dead, "fast": fast})
		for i := range 50 {
			r.append("dead", 0, never, fmt.Sprintf("d:%d", i))
			r.append("fast", 0, never, fmt.Sprintf("d:%d", i))
		}
		synctest.Wait()
		if n := len(strings.Fields(fast.takenList())); n != 50 {
			t.Errorf("%d of 50", n)
		}
		r.stop()
		time.Sleep(2000 * time.Hour) // the late answer meets nobody
	})
}

func TestExpiredMessagesAreNotSent(t *testing.T) {
	bubble(t, dispatch.Options{Cleanup: time.Minute}, func(t *testing.T, r *rig) {
		s := &sink{window: 0}
		r.configure(map[string]dispatch.Sink{"e": s})
		r.append("e", 0, 30*time.Second, "d:0", "d:1")
		r.append("e", 0, never, "d:2")
		time.Sleep(90 * time.Second)
		if r.length() != 1 {
			t.Errorf("clean-up left %d messages", r.length())
		}
		s.setWindow(8)
		r.e.Wake("e")
		synctest.Wait()
		if got := s.list(); got != "d:2" {
			t.Errorf("sent %s", got)
		}
		_, read, _ := r.counts("queue ttl_expiry")
		_, held, _ := r.counts("ttl_expiry")
		if read+held != 2 {
			t.Errorf("dropped %d and %d", read, held)
		}
	})
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		s := &sink{window: 8, answer: func(string, int) error { return errDown }}
		r.configure(map[string]dispatch.Sink{"e": s})
		r.append("e", 0, 30*time.Second, "d:0")
		r.append("e", 0, never, "d:1")
		time.Sleep(10 * time.Minute)
		if _, dropped, _ := r.counts("ttl_expiry"); dropped != 1 || r.length() != 1 {
			t.Errorf("a message that is retried: %d dropped, %d left", dropped, r.length())
		}
	})
}

func TestReconfigure(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		r.append("old", 0, never, "d:0", "d:1") // of an earlier run
		synctest.Wait()
		if r.length() != 2 {
			t.Fatal("messages went before there was a configuration")
		}
		kept, gone := &sink{window: 0}, &sink{window: 0}
		r.configure(map[string]dispatch.Sink{"kept": kept, "gone": gone})
		if r.q.Len("old", 0) != 0 {
			t.Error("endpoint of an earlier run has kept its messages")
		}
		r.append("kept", 0, never, "d:0")
		r.append("gone", 3, never, "d:0", "d:1", "d:2")
		r.append("later", 0, never, "d:0") // routes change first
		next, later := &sink{window: 4}, &sink{window: 4}
		r.configure(map[string]dispatch.Sink{"kept": next, "later": later})
		synctest.Wait()
		if kept.list() != "" || next.takenList() != "d:0" || later.takenList() != "d:0" {
			t.Errorf("old sink %q, new sink %q, new endpoint %q", kept.list(), next.list(), later.list())
		}
		if got := r.q.Endpoints(); !slices.Equal(got, []string{"kept", "later"}) {
			t.Errorf("endpoints %v", got)
		}
		r.configure(map[string]dispatch.Sink{"kept": next, "gone": gone})
		gone.setWindow(1)
		r.append("gone", 3, never, "d:9")
		r.e.Wake("gone")
		synctest.Wait()
		if gone.list() != "d:9" {
			t.Errorf("endpoint that came back got %s", gone.list())
		}
		r.stop()
		if log := r.log.String(); !strings.Contains(log, "endpoint=gone lost=3") || !strings.Contains(log, "endpoint=old lost=2") {
			t.Errorf("log: %s", log)
		}
		if err := r.e.Reconfigure(context.Background(), nil); err != nil {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestRunWaitsForDeliveriesInFlight(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		s := &sink{window: 4, delay: time.Second}
		r.configure(map[string]dispatch.Sink{"e": s})
		r.append("e", 0, never, "d:0", "d:1")
		synctest.Wait()
		r.stop()
		if r.length() != 0 {
			t.Errorf("%d messages would come again", r.length())
		}
	})
}

func TestSecondResultOfADeliveryIsIgnored(t *testing.T) {
	bubble(t, dispatch.Options{}, func(t *testing.T, r *rig) {
		s := &twice{}
		r.configure(map[string]dispatch.Sink{"e": s})
		r.append("e", 0, never, "d:0", "d:1", "d:2")
		time.Sleep(time.Minute)
		if sent, _, _ := r.counts(""); r.length() != 0 || sent != 3 {
			t.Errorf("%d left, %d sent", r.length(), sent)
		}
		r.stop()
		if !strings.Contains(r.log.String(), "twice") {
			t.Error("it was not logged")
		}
	})
}

type twice struct{}

func (*twice) Window() int { return 1 }
func (*twice) Deliver(_ *iothub.Message, _ dispatch.Info, done func(error)) {
	done(nil)
	done(errDown)
}

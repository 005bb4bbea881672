package queue_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/breakwater-iot/breakwater/hub/internal/queue"
	"github.com/breakwater-iot/breakwater/hub/internal/seglog/simdisk"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// machine compares the queues with plain lists, over restarts, removals and
// expiry.
type machine struct {
	disk    *simdisk.Disk
	now     time.Time
	q       *queue.Queue
	readers map[string]*queue.Reader
	model   map[modelName]*modelQueue
	expired map[string]int // body: times
	next    int
}

type modelName struct {
	endpoint string
	priority uint32
}

type modelQueue struct {
	list []*modelMessage // unfinished, in order
	read int             // how many of them are in the reader's hands
}

type modelMessage struct {
	body    string
	expires time.Time // zero: never
	entry   *queue.Entry
}

var (
	modelEndpoints  = []string{"a", "b", "c"}
	modelPriorities = []uint32{0, 7, queue.DefaultPriority}
)

func (m *machine) open(t *rapid.T) {
	var err error
	m.q, err = queue.Open(m.disk.Folder(), queue.Options{
		Logger:      slog.New(slog.DiscardHandler),
		Now:         func() time.Time { return m.now },
		Expired:     func(msg *iothub.Message) { m.expired[string(msg.Body)]++ },
		SegmentSize: 256 << 10, // so that there are several
	})
	if err != nil {
		t.Fatal(err)
	}
	m.readers = make(map[string]*queue.Reader)
}

func (m *machine) name(t *rapid.T) modelName {
	return modelName{
		rapid.SampledFrom(modelEndpoints).Draw(t, "endpoint"),
		rapid.SampledFrom(modelPriorities).Draw(t, "priority"),
	}
}

func (m *machine) reader(endpoint string) *queue.Reader {
	r := m.readers[endpoint]
	if r == nil {
		r = m.q.Reader(endpoint)
		m.readers[endpoint] = r
		m.unread(endpoint)
	}
	return r
}

// unread takes everything out of the reader's hands.
func (m *machine) unread(endpoint string) {
	for name, q := range m.model {
		if name.endpoint == endpoint {
			q.read = 0
		}
	}
}

func (m *machine) Append(t *rapid.T) {
	n := rapid.IntRange(1, 5).Draw(t, "messages")
	done := make(chan error, n)
	for range n {
		body := fmt.Sprint(m.next, "/", strings.Repeat("x", rapid.SampledFrom([]int{0, 10, 1500, 40_000}).Draw(t, "size")))
		m.next++
		var targets []queue.Target
		for _, e := range modelEndpoints {
			if !rapid.Bool().Draw(t, "target "+e) {
				continue
			}
			name := modelName{e, rapid.SampledFrom(modelPriorities).Draw(t, "priority")}
			ttl := rapid.SampledFrom([]time.Duration{never, never, time.Second, time.Minute}).Draw(t, "ttl")
			targets = append(targets, queue.Target{Endpoint: e, Priority: name.priority, TTL: ttl})
			mm := &modelMessage{body: body}
			if ttl >= 0 {
				mm.expires = m.now.Add(ttl)
			}
			if m.model[name] == nil {
				m.model[name] = &modelQueue{}
			}
			m.model[name].list = append(m.model[name].list, mm)
		}
		if rapid.Bool().Draw(t, "later") {
			m.q.AppendLater(msg(body), targets, func(err error) { done <- err })
			continue
		}
		m.q.Append(msg(body), targets, func(err error) { done <- err })
	}
	m.q.Commit(map[bool]func(){true: func() {}}[rapid.Bool().Draw(t, "here")])
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func (m *machine) Read(t *rapid.T) {
	name := m.name(t)
	r := m.reader(name.endpoint)
	count := rapid.IntRange(0, 8).Draw(t, "count")
	list, err := r.Read(name.priority, count, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	q := m.model[name]
	if q == nil {
		q = &modelQueue{}
	}
	for {
		expired := q.read < len(q.list) && !q.list[q.read].expires.IsZero() && !m.now.Before(q.list[q.read].expires)
		if expired {
			body := q.list[q.read].body
			if m.expired[body]--; m.expired[body] < 0 {
				t.Fatalf("%.10s was not reported as expired", body)
			}
			q.list = slices.Delete(q.list, q.read, q.read+1)
			continue
		}
		if len(list) == 0 {
			break
		}
		if q.read >= len(q.list) || q.list[q.read].body != string(list[0].Message.Body) {
			t.Fatalf("%v: got %.10s", name, list[0].Message.Body)
		}
		q.list[q.read].entry = list[0]
		q.read++
		list = list[1:]
		if count--; count == 0 {
			// Whether expired ones behind the last were dropped already is up to
			// the queue.
			m.dropReported(q)
			break
		}
	}
	if count > 0 && q.read < len(q.list) {
		t.Fatalf("%v: %.10s was not read", name, q.list[q.read].body)
	}
}

func (m *machine) dropReported(q *modelQueue) {
	for q.read < len(q.list) && m.expired[q.list[q.read].body] > 0 {
		m.expired[q.list[q.read].body]--
		q.list = slices.Delete(q.list, q.read, q.read+1)
	}
}

func (m *machine) Settle(t *rapid.T) {
	name := m.name(t)
	q := m.model[name]
	if q == nil || q.read == 0 {
		return
	}
	n := rapid.IntRange(1, q.read).Draw(t, "messages")
	for range n {
		i := rapid.IntRange(0, q.read-1).Draw(t, "which")
		m.readers[name.endpoint].Settle(q.list[i].entry)
		q.list = slices.Delete(q.list, i, i+1)
		q.read--
	}
}

func (m *machine) Reopen(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "really") > 0 {
		return
	}
	if err := m.q.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t)
	for _, e := range modelEndpoints {
		m.unread(e)
	}
}

func (m *machine) NewReader(t *rapid.T) {
	e := rapid.SampledFrom(modelEndpoints).Draw(t, "endpoint")
	delete(m.readers, e)
	m.reader(e)
}

func (m *machine) Remove(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
		return
	}
	e := rapid.SampledFrom(modelEndpoints).Draw(t, "endpoint")
	want := 0
	for name, q := range m.model {
		if name.endpoint == e {
			want += len(q.list)
			delete(m.model, name)
		}
	}
	delete(m.readers, e)
	lost, err := m.q.RemoveEndpoint(t.Context(), e)
	if err != nil || lost != want {
		t.Fatalf("removal of %s lost %d, want %d, %v", e, lost, want, err)
	}
}

func (m *machine) Wait(t *rapid.T) {
	m.now = m.now.Add(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute}).Draw(t, "time"))
}

// Check compares lengths, and that nothing is kept on disk once all is finished.
func (m *machine) Check(t *rapid.T) {
	total := 0
	for _, e := range modelEndpoints {
		for _, p := range modelPriorities {
			want := 0
			if q := m.model[modelName{e, p}]; q != nil {
				want = len(q.list)
			}
			if got := m.q.Len(e, p); got != want {
				t.Fatalf("length of %s/%d is %d, want %d", e, p, got, want)
			}
			total += want
		}
	}
	for body, n := range m.expired {
		if n != 0 {
			t.Fatalf("%.10s was reported as expired %d times more", body, n)
		}
	}
	if total > 0 {
		return
	}
	if m.q.Bytes() != 0 {
		t.Fatalf("empty queues keep %d bytes", m.q.Bytes())
	}
}

func TestQueuesBehaveAsLists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{
			disk:    simdisk.New(),
			now:     time.UnixMilli(1_700_000_000_000),
			model:   make(map[modelName]*modelQueue),
			expired: make(map[string]int),
		}
		m.open(t)
		defer func() {
			_ = m.q.Close()
			x, err := queue.Inspect(m.disk.Folder(), true, m.now)
			if err != nil || len(x.Problems) > 0 {
				t.Fatalf("on disk: %+v, %v", x, err)
			}
		}()
		t.Repeat(map[string]func(*rapid.T){
			"append": m.Append,
			"read":   m.Read,
			"settle": m.Settle,
			"reopen": m.Reopen,
			"reader": m.NewReader,
			"remove": m.Remove,
			"wait":   m.Wait,
			"":       m.Check,
		})
	})
}

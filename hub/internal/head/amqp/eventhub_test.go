package amqp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/hub/internal/head/amqp"
	"github.com/breakwater-iot/breakwater/hub/internal/head/headtest"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/sas"
)

// eventHub is an in-memory head.EventHub of two partitions.
type eventHub struct {
	starts chan head.EventStart

	mu     sync.Mutex
	events [2][]head.Event
	more   chan struct{}
	reads  int // events that were read
	err    error
}

func newEventHub() *eventHub {
	return &eventHub{starts: make(chan head.EventStart, 100), more: make(chan struct{})}
}

func (h *eventHub) EventHub() head.EventHubInfo {
	return head.EventHubInfo{Name: "eh-Name", Host: "eh.example", Port: 5671, Created: time.UnixMilli(1000), Partitions: 2, Groups: []string{"$Default", "other"}}
}

func (h *eventHub) Partition(n int) (head.PartitionInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := int64(len(h.events[n])) - 1
	return head.PartitionInfo{Begin: 0, Last: last, LastOffset: 100 * last, LastEnqueued: time.UnixMilli(5000), Empty: last < 0}, h.err
}

func (h *eventHub) ReadEvents(partition int, start head.EventStart) (head.EventCursor, error) {
	h.starts <- start
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &cursor{h: h, partition: partition}
	if start.Latest {
		c.next = len(h.events[partition])
	}
	return c, h.err
}

// add appends an event with a body.
func (h *eventHub) add(partition int, body string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := int64(len(h.events[partition]))
	h.events[partition] = append(h.events[partition], head.Event{Sequence: n, Offset: 100 * n, Enqueued: time.UnixMilli(5000), Source: "Telemetry",
		Sender: dev, Generation: "g", AuthMethod: "{}", Message: &iothub.Message{Body: []byte(body)}})
	close(h.more)
	h.more = make(chan struct{})
}

func (h *eventHub) readCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reads
}

type cursor struct {
	h               *eventHub
	partition, next int
}

func (c *cursor) Read(limit, bytes int) (list []head.Event, err error) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	for ; c.next < len(c.h.events[c.partition]) && len(list) < limit && bytes > 0; c.next++ {
		e := c.h.events[c.partition][c.next]
		list, bytes = append(list, e), bytes-len(e.Message.Body)
		c.h.reads++
	}
	return list, c.h.err
}

func (c *cursor) More() <-chan struct{} {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if c.next < len(c.h.events[c.partition]) {
		ready := make(chan struct{})
		close(ready)
		return ready
	}
	return c.h.more
}

func readingEvents(s *services, e *eventHub) func(*amqp.Options) {
	return func(o *amqp.Options) { o.Flavor, o.Services, o.Events = amqp.Cloud, s, e }
}

const partition0 = "eh-name/ConsumerGroups/$Default/Partitions/0"

func selected(text string) *goamqp.ReceiverOptions {
	return &goamqp.ReceiverOptions{Filters: []goamqp.LinkFilter{goamqp.NewSelectorFilter(text)}}
}

func epoch(n int64) *goamqp.ReceiverOptions {
	return &goamqp.ReceiverOptions{Properties: map[string]any{"com.microsoft:epoch": n}}
}

func TestRedirectToTheEventEndpoint(t *testing.T) {
	h := start(t, newBackend(), readingEvents(newServices(), newEventHub()))
	p := h.login(policy)
	for address, want := range map[string]string{
		"messages/events/": "amqps://eh.example:5671/eh-Name/",
		"/messages/events": "amqps://eh.example:5671/eh-Name/",
		"amqps://h.example/messages/events/$management": "amqps://eh.example:5671/eh-Name/$management",
	} {
		_, err := p.s.NewReceiver(t.Context(), address, nil)
		var link *goamqp.Error
		if !errors.As(err, &link) || link.Condition != "amqp:link:redirect" {
			t.Fatalf("%s: %v", address, err)
		}
		if link.Info["hostname"] != "eh.example" || link.Info["network-host"] != "eh.example" || link.Info["address"] != want || link.Info["port"] != int32(5671) {
			t.Errorf("%s: %v", address, link.Info)
		}
	}
	if _, err := p.s.NewSender(t.Context(), "messages/events", nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("sender: %v", err)
	}
	if _, err := h.login(dev).s.NewReceiver(t.Context(), "messages/events", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("a device: %v", err)
	}
}

func TestReadersSeeAllOfAnEvent(t *testing.T) {
	e := newEventHub()
	h := start(t, newBackend(), readingEvents(newServices(), e))
	m := &iothub.Message{Body: []byte(`{"a":1}`)}
	for _, p := range [][2]string{{iothub.MessageID, "id"}, {iothub.CorrelationID, "cid"}, {iothub.UserID, "u"}, {iothub.ContentType, "application/json"},
		{iothub.ContentEncoding, "utf-8"}, {iothub.OutputName, "out"}, {iothub.InterfaceID, "urn:i"}, {iothub.ComponentName, "comp"}, {iothub.CreationTime, "2026-01-01"}} {
		m.System.Set(p[0], p[1])
	}
	m.Properties.Set("k", "v")
	m.Properties.SetNull("flag")
	m.Properties.Set("iothub-connection-device-id", "forged")
	at := time.UnixMilli(1654109018176).UTC()
	e.events[1] = []head.Event{{Sequence: 72, Offset: 37344, Enqueued: at, Source: "Telemetry", Sender: mod, Generation: "gen", AuthMethod: `{"scope":"module"}`, ModelID: "dtmi:m;1", Message: m}}
	p := h.login(policy)
	got := p.receive(p.receiver("eh-name/ConsumerGroups/OTHER/Partitions/1", nil))
	want := map[any]any{
		"x-opt-sequence-number": int64(72), "x-opt-offset": "37344", "x-opt-enqueued-time": at, "iothub-connection-device-id": "d1",
		"iothub-connection-module-id": "m1", "iothub-connection-auth-method": `{"scope":"module"}`, "iothub-connection-auth-generation-id": "gen",
		"iothub-enqueuedtime": at, "iothub-message-source": "Telemetry", "dt-dataschema": "dtmi:m;1", "iothub-interface-id": "urn:i", "dt-subject": "comp",
	}
	for k, v := range want {
		has := got.Annotations[k]
		when, isTime := has.(time.Time)
		if same := has == v || isTime && when.Equal(at) && v == any(at); !same {
			t.Errorf("%v is %v (%T), want %v (%T)", k, has, has, v, v)
		}
	}
	if len(got.Annotations) != len(want) {
		t.Errorf("annotations %v", got.Annotations)
	}
	props := got.Properties
	if props.MessageID != "id" || props.CorrelationID != "cid" || string(props.UserID) != "u" || *props.ContentType != "application/json" ||
		*props.ContentEncoding != "utf-8" || *props.To != "/devices/d1/modules/m1/messages/events" {
		t.Errorf("properties %+v", props)
	}
	application := map[string]any{"k": "v", "flag": nil, "iothub-outputname": "out", "iothub-creation-time-utc": "2026-01-01"}
	if fmt.Sprint(got.ApplicationProperties) != fmt.Sprint(application) || string(got.GetData()) != `{"a":1}` {
		t.Errorf("%v, %s", got.ApplicationProperties, got.GetData())
	}
}

func TestReadersBeginWhereTheySay(t *testing.T) {
	e := newEventHub()
	h := start(t, newBackend(), readingEvents(newServices(), e))
	e.add(0, "old")
	p := h.login(policy)
	for _, o := range []*goamqp.ReceiverOptions{nil, selected("amqp.annotation.x-opt-offset > '-1'")} {
		r := p.receiver(partition0, o)
		if want := (head.EventStart{Value: -1}); headtest.Receive(t, "start", e.starts) != want {
			t.Error("another start")
		}
		if m := p.receive(r); string(m.GetData()) != "old" {
			t.Errorf("%s", m.GetData())
		}
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r := p.receiver(partition0, selected("amqp.annotation.x-opt-offset > '@latest'"))
	if got := r.LinkSourceFilterValue("apache.org:selector-filter:string"); got != "amqp.annotation.x-opt-offset > '@latest'" {
		t.Errorf("accepted filter %v", got)
	}
	headtest.Receive(t, "start", e.starts)
	e.add(0, "new")
	if m := p.receive(r); string(m.GetData()) != "new" {
		t.Errorf("%s", m.GetData())
	}
	// A filter that means nothing here is not accepted, and harmless.
	r = p.receiver(partition0, &goamqp.ReceiverOptions{Filters: []goamqp.LinkFilter{goamqp.NewLinkFilter("x:y", 0, "z"), goamqp.NewSelectorFilter("amqp.annotation.x-opt-sequence-number >= '3'")}})
	if want := (head.EventStart{By: head.EventSequence, Value: 3, Inclusive: true}); headtest.Receive(t, "start", e.starts) != want {
		t.Error("another start")
	}
	if r.LinkSourceFilterValue("x:y") != nil {
		t.Error("an unknown filter was accepted")
	}
	if _, err := p.s.NewReceiver(t.Context(), partition0, selected("x > 1")); condition(err) != "com.microsoft:argument-error" {
		t.Errorf("bad selector: %v", err)
	}
	e.mu.Lock()
	e.err = head.ErrInvalid
	e.mu.Unlock()
	if _, err := p.s.NewReceiver(t.Context(), partition0, nil); condition(err) != "com.microsoft:argument-out-of-range" {
		t.Errorf("start beyond the end: %v", err)
	}
}

func TestAddressesOfTheEventEndpointThatAreNot(t *testing.T) {
	h := start(t, newBackend(), readingEvents(newServices(), newEventHub()))
	p := h.login(policy)
	for address, want := range map[string]string{
		"other/ConsumerGroups/$Default/Partitions/0":   "amqp:not-found",
		"other/$management":                            "amqp:not-found",
		"eh-name/ConsumerGroups/nobody/Partitions/0":   "amqp:not-found",
		"eh-name/ConsumerGroups/$Default/Partitions/2": "com.microsoft:argument-out-of-range",
		"eh-name/ConsumerGroups/$Default/Partitions/x": "com.microsoft:argument-out-of-range",
	} {
		if _, err := p.s.NewReceiver(t.Context(), address, nil); condition(err) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := p.s.NewSender(t.Context(), partition0, nil); condition(err) != "amqp:not-allowed" {
		t.Errorf("sender: %v", err)
	}
	without := start(t, newBackend(), serving(newServices())).login(policy)
	for _, address := range []string{partition0, "$management", "messages/events"} {
		if _, err := without.s.NewReceiver(t.Context(), address, nil); condition(err) != "amqp:not-found" {
			t.Errorf("%s without an endpoint: %v", address, err)
		}
	}
}

// gated is a connection that can stop to read.
type gated struct {
	net.Conn
	shut, closed chan struct{}
	once         sync.Once
}

func (g *gated) Read(b []byte) (int, error) {
	select {
	case <-g.shut:
		<-g.closed
		return 0, net.ErrClosed
	default:
		return g.Conn.Read(b)
	}
}

func (g *gated) Close() error {
	g.once.Do(func() { close(g.closed) })
	return g.Conn.Close()
}

func TestASlowReaderHoldsBackNobodyAndLittleMemory(t *testing.T) {
	e := newEventHub()
	h := start(t, newBackend(), readingEvents(newServices(), e))
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	g := &gated{Conn: nc, shut: make(chan struct{}), closed: make(chan struct{})}
	c, err := goamqp.NewConn(t.Context(), g, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	slow := (&peer{t: t, h: h, Conn: c, s: s}).login(policy)
	const n, size = 600, 64 << 10
	// It gives credit for all, reads the first and then nothing any more.
	r := slow.receiver(partition0, &goamqp.ReceiverOptions{Credit: n})
	e.add(0, "first")
	slow.receive(r)
	close(g.shut)
	for range n {
		e.add(0, string(make([]byte, size)))
	}
	fast := h.login(policy)
	r = fast.receiver("eh-name/ConsumerGroups/other/Partitions/0", &goamqp.ReceiverOptions{Credit: 10})
	for range n + 1 {
		if err := r.AcceptMessage(t.Context(), fast.receive(r)); err != nil {
			t.Fatal(err)
		}
	}
	// What is read for the slow one is what the socket's buffers take, and little more.
	if read := e.readCount() - n - 1; read*size > 16<<20 || read < 2 {
		t.Errorf("%d KiB were read for one that does not read", read*size>>10)
	}
}

func TestNoMoreIsReadThanThereIsCreditFor(t *testing.T) {
	e := newEventHub()
	h := start(t, newBackend(), readingEvents(newServices(), e))
	for range 100 {
		e.add(0, "x")
	}
	p := h.login(policy)
	r := p.receiver(partition0, &goamqp.ReceiverOptions{Credit: -1})
	for _, credit := range []int{3, 40} {
		before := e.readCount()
		if err := r.IssueCredit(uint32(credit)); err != nil {
			t.Fatal(err)
		}
		for range credit {
			p.receive(r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := r.Receive(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("more than the credit of %d: %v", credit, err)
		}
		cancel()
		if got := e.readCount() - before; got != credit {
			t.Errorf("%d events were read for a credit of %d", got, credit)
		}
	}
}

func TestDrainEndsWhenThereIsNoMore(t *testing.T) {
	e := newEventHub()
	h := start(t, newBackend(), readingEvents(newServices(), e))
	for i := range 3 {
		e.add(0, fmt.Sprint(i))
	}
	p := h.login(policy)
	for _, credit := range []uint32{3, 10} {
		r := p.receiver(partition0, &goamqp.ReceiverOptions{Credit: -1})
		if err := r.IssueCredit(credit); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			p.receive(r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), headtest.Patience)
		if err := r.DrainCredit(ctx, nil); err != nil {
			t.Errorf("credit %d: %v", credit, err)
		}
		cancel()
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEpochs(t *testing.T) {
	e := newEventHub()
	h := start(t, newBackend(), readingEvents(newServices(), e))
	a, b := h.login(policy), h.login(policy)
	plain := a.receiver(partition0, nil)
	first := a.receiver(partition0, epoch(3))
	gone := func(what string, r *goamqp.Receiver) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), headtest.Patience)
		defer cancel()
		if _, err := r.Receive(ctx, nil); condition(err) != "amqp:link:stolen" {
			t.Errorf("%s: %v", what, err)
		}
	}
	gone("one without an epoch", plain)
	for _, o := range []*goamqp.ReceiverOptions{nil, epoch(2)} {
		if _, err := b.s.NewReceiver(t.Context(), partition0, o); condition(err) != "amqp:link:stolen" {
			t.Errorf("lower: %v", err)
		}
	}
	second := b.receiver(partition0, epoch(3))
	gone("one of the same epoch", first)
	third := b.receiver(partition0, epoch(4))
	gone("one of a lower epoch", second)
	// Other partitions and groups are others.
	b.receiver("eh-name/ConsumerGroups/$Default/Partitions/1", nil)
	b.receiver("eh-name/ConsumerGroups/other/Partitions/0", nil)
	e.add(0, "x")
	b.receive(third)
	if err := third.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.s.NewReceiver(t.Context(), partition0, &goamqp.ReceiverOptions{Properties: map[string]any{"com.microsoft:epoch": "x"}}); condition(err) != "com.microsoft:argument-error" {
		t.Errorf("no number: %v", err)
	}
	// With the last reader its epoch is forgotten.
	a.receiver(partition0, nil)
	for range 4 {
		b.receiver(partition0, nil)
	}
	if _, err := b.s.NewReceiver(t.Context(), partition0, nil); condition(err) != "amqp:resource-limit-exceeded" {
		t.Errorf("the sixth: %v", err)
	}
}

// manage asks $management and returns the status and the body.
func (p *peer) manage(address string, id any, ask map[string]any) (int32, map[string]any) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), headtest.Patience)
	defer cancel()
	replyTo := "answers"
	r := p.receiver(address, &goamqp.ReceiverOptions{TargetAddress: replyTo})
	s := p.sender(address, nil)
	p.mustSend(s, &goamqp.Message{Properties: &goamqp.MessageProperties{MessageID: id, ReplyTo: &replyTo}, ApplicationProperties: ask})
	m := p.receive(r)
	if m.Properties.CorrelationID != id {
		p.t.Errorf("correlation id %v (%T)", m.Properties.CorrelationID, m.Properties.CorrelationID)
	}
	if err := errors.Join(r.Close(ctx), s.Close(ctx)); err != nil {
		p.t.Error(err)
	}
	status, _ := m.ApplicationProperties["status-code"].(int32)
	body, _ := m.Value.(map[string]any)
	return status, body
}

func TestManagement(t *testing.T) {
	e := newEventHub()
	h := start(t, newBackend(), readingEvents(newServices(), e))
	e.add(1, "x")
	p := h.login(policy)
	status, body := p.manage("$management", "text", map[string]any{"operation": "READ", "name": "EH-name", "type": "com.microsoft:eventhub"})
	if ids, ok := body["partition_ids"].([]string); status != 200 || !ok || !slices.Equal(ids, []string{"0", "1"}) || body["name"] != "eh-Name" ||
		body["partition_count"] != int32(2) || !body["created_at"].(time.Time).Equal(time.UnixMilli(1000)) {
		t.Errorf("%d, %v", status, body)
	}
	ask := map[string]any{"operation": "READ", "name": "eh-name", "type": "com.microsoft:partition", "partition": "1"}
	status, body = p.manage("amqps://x:5671/eh-name/$management", uint64(7), ask)
	if status != 200 || body["partition"] != "1" || body["begin_sequence_number"] != int64(0) || body["last_enqueued_sequence_number"] != int64(0) ||
		body["last_enqueued_offset"] != "0" || body["is_partition_empty"] != false || !body["last_enqueued_time_utc"].(time.Time).Equal(time.UnixMilli(5000)) {
		t.Errorf("%d, %v", status, body)
	}
	ask["partition"] = "0"
	if status, body = p.manage("$management", "2", ask); status != 200 || body["is_partition_empty"] != true || body["last_enqueued_sequence_number"] != int64(-1) {
		t.Errorf("%d, %v", status, body)
	}
	for _, tt := range []struct {
		key, value string
		want       int32
	}{{"partition", "2", 400}, {"partition", "x", 400}, {"type", "x", 400}, {"operation", "DELETE", 400}, {"name", "other", 404}} {
		ask := map[string]any{"operation": "READ", "name": "eh-name", "type": "com.microsoft:partition", "partition": "1"}
		ask[tt.key] = tt.value
		if status, _ := p.manage("$management", "3", ask); status != tt.want {
			t.Errorf("%s=%s: %d", tt.key, tt.value, status)
		}
	}
}

// onePartition makes services take tokens for one partition each.
func onePartition(t *testing.T, sv *services) {
	sv.path = func(l head.ServiceLogin) string {
		token, err := sas.Parse(l.Token)
		if err != nil {
			t.Error(err)
		}
		path := token.Path()[1:]
		return fmt.Sprint(path[0], "/ConsumerGroups/$default/PARTITIONS/", path[1])
	}
}

// mayRead puts a token for one partition.
func (p *peer) mayRead(partition string) {
	p.t.Helper()
	text, err := sas.New("sb%3A%2F%2Feh.example%2Feh-name%2F"+partition, never, "service", func([]byte) ([]byte, error) { return []byte("s"), nil })
	if err != nil {
		p.t.Fatal(err)
	}
	if status, _ := p.putToken(text, "1"); status != 200 {
		p.t.Fatalf("status %d", status)
	}
}

// TestTokensForEventsReadEventsOnly checks tokens whose path bounds what they allow.
func TestTokensForEventsReadEventsOnly(t *testing.T) {
	sv, e := newServices(), newEventHub()
	onePartition(t, sv)
	h := start(t, newBackend(), readingEvents(sv, e))
	p := h.dial(nil)
	p.mayRead("0")
	r := p.receiver(partition0, nil)
	for _, address := range []string{"eh-name/ConsumerGroups/$Default/Partitions/1", "eh-name/ConsumerGroups/other/Partitions/0", "$management", "messages/events", "/messages/servicebound/feedback"} {
		if _, err := p.s.NewReceiver(t.Context(), address, nil); condition(err) != "amqp:unauthorized-access" {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"/messages/devicebound", "/devices/d1/messages/events"} {
		if _, err := p.s.NewSender(t.Context(), address, nil); condition(err) != "amqp:unauthorized-access" {
			t.Errorf("%s: %v", address, err)
		}
	}
	e.add(0, "x")
	p.receive(r)
	if _, err := h.dial(nil).s.NewReceiver(t.Context(), partition0, nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("without a token: %v", err)
	}
}

func TestKeyOfAPolicyByPlain(t *testing.T) {
	sv, e := newServices(), newEventHub()
	h := start(t, newBackend(), readingEvents(sv, e))
	e.add(0, "x")
	for _, user := range []string{"service", "service@root.h"} {
		p := h.dial(goamqp.SASLTypePlain(user, "a2V5"))
		if l := headtest.Receive(t, "login", sv.logins); l.Policy != "service" || l.Key != "a2V5" || l.Token != "" {
			t.Errorf("%s: login by policy %s", user, l.Policy)
		}
		p.receive(p.receiver(partition0, nil))
		if _, err := p.s.NewSender(t.Context(), "/devices/d1/messages/events", nil); condition(err) != "amqp:unauthorized-access" {
			t.Errorf("as a device: %v", err)
		}
	}
	sv.set(head.ErrUnauthorized, nil)
	if _, err := goamqp.Dial(t.Context(), "amqp://"+h.addr, &goamqp.ConnOptions{SASLType: goamqp.SASLTypePlain("service", "x")}); err == nil {
		t.Error("a wrong key comes in")
	}
}

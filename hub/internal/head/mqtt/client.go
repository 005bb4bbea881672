package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
)

// errPanic ends a connection whose handling panicked.
var errPanic = errors.New("panic")

// client is one connection, from the accepted socket on, and the head.Client that
// the Backend sees. Its fields are set before the Backend learns of it or belong
// to the reader goroutine, except where noted.
type client struct {
	srv       *Server
	log       *slog.Logger
	wire      *wire
	transport Transport
	ctx       context.Context // ends with the connection; mochi's hooks carry none
	cancel    context.CancelFunc

	in      *inbox
	out     *outbox
	subs    *subscriptions
	methods methods
	twin    twinWorker
	wg      sync.WaitGroup // writer and twin worker

	complaints head.Complaints

	mu     sync.Mutex
	ended  bool  // the first to give a reason has set it
	reason error // why the connection ends; nil after a goodbye

	// Owned by the reader goroutine.
	connecting bool // CONNECT was seen
	mochiID    string
	id         iothub.Identity
	login      head.Login
	will       *will
	session    head.Session // nil until the Backend admitted the client
	storing    head.Storing // the session if it is one, or nil
	later      bool         // a message was left to be stored by storing.Store
	admitted   bool         // counted by Server.admit
	present    bool         // for CONNACK: a stored session exists
	clean      bool
	suback     []byte         // codes for the SUBACK that mochi is about to write
	fresh      []head.Feature // features to tell the Backend after the SUBACK
}

var _ head.Client = (*client)(nil)

func newClient(ctx context.Context, s *Server, nc net.Conn, t Transport) *client {
	c := &client{srv: s, transport: t, log: s.log.With("remote", nc.RemoteAddr().String())}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.wire = &wire{Conn: nc, client: c, writeTimeout: s.opts.WriteTimeout}
	c.out = newOutbox(&s.opts, func() { c.stop(errSlow) })
	c.in = newInbox(s.opts.MaxUnacked, s.opts.MaxUnackedBytes, c.out)
	c.subs = newSubscriptions(s.opts.MaxSubscriptions)
	c.twin.requests = make(chan twinRequest, twinQueue)
	return c
}

// read runs mochi's reader, and with it all hooks, until the connection ends.
func (c *client) read() (err error) {
	err = errPanic // unless guarded returns in order
	c.guarded(func() { err = c.srv.mqtt.EstablishConnection("mqtt", c.wire) })
	return err
}

// guarded calls f so that a panic of it, or of the Backend below, costs this
// connection only.
func (c *client) guarded(f func()) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("mqtt connection panicked", "identity", c.id.String(), "panic", p, "stack", string(debug.Stack()))
			c.stop(errPanic)
		}
	}()
	f()
}

// complain logs something that the client does wrong.
func (c *client) complain(text string, args ...any) {
	c.complaints.Log(c.ctx, c.log, text, append(args, "identity", c.id.String())...)
}

// spawn starts a goroutine that finish waits for.
func (c *client) spawn(f func()) { c.wg.Go(func() { c.guarded(f) }) }

// because gives the reason why the connection ends; only the first one counts.
func (c *client) because(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended, c.reason = true, reason
	}
}

// stop ends the connection for a reason. It returns at once: the reader wakes up
// and cleans up.
func (c *client) stop(reason error) {
	c.because(reason)
	c.cancel()
	c.wire.interrupt()
}

// finish runs once, on the goroutine of the reader, when that has ended.
func (c *client) finish(readErr error) {
	c.guarded(c.goesOn)
	if readErr == nil {
		readErr = net.ErrClosed
	}
	c.because(readErr)
	c.mu.Lock()
	reason := c.reason
	c.mu.Unlock()
	c.cancel()
	_ = c.wire.Close() // says goodbye in TLS; that it was closed before is no news
	if c.mochiID != "" {
		c.srv.mqtt.Clients.Delete(c.mochiID) // left behind only after a panic
	}
	c.wg.Wait()
	c.guarded(c.out.close)
	c.methods.Close()
	if c.session != nil {
		c.guarded(func() { c.sendWill(reason) })
		c.guarded(func() { c.session.Close(reason) })
	}
	if c.admitted {
		c.srv.dismiss(c.id)
		c.log.Info("mqtt client disconnected", "identity", c.id.String(), "reason", errText(reason))
		if f := c.srv.opts.Events.Disconnected; f != nil {
			f(c.id, reason)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return "goodbye"
	}
	return err.Error()
}

// established runs after the CONNACK was written: what the Backend has sent since
// Connect may go out now, and features of the stored session start.
func (c *client) established() {
	c.storing, _ = c.session.(head.Storing)
	c.spawn(func() {
		if err := c.out.run(c.ctx, c.wire); err != nil && c.ctx.Err() == nil {
			c.stop(fmt.Errorf("write: %w", err))
		}
	})
	for _, f := range c.subs.features() {
		c.session.Subscribe(f)
	}
	c.log.Info("mqtt client connected", "identity", c.id.String(), "protocol", c.transport.Protocol, "product", head.Clip(c.login.Product))
	if f := c.srv.opts.Events.ConnectSucceeded; f != nil {
		f(c.id)
	}
}

// Deliver implements head.Client. A message that no filter of the client matches
// is abandoned, one that fits no topic is rejected. QoS 0 is complete when
// written. A redelivery (delivery count above 0) carries DUP; over QoS 0 an edge
// hub completes it without sending, because the client may have had it.
func (c *client) Deliver(input string, m *iothub.Message, settled func(head.Outcome) bool) {
	t := topic.Topic{Kind: topic.C2D, Identity: c.id, Bag: topic.EncodeBag(m, topic.ToClient)}
	if input != "" {
		t.Kind, t.Name = topic.Input, input
	}
	name := t.String()
	if len(name) > topic.MaxLength {
		settled(head.Reject)
		return
	}
	qos, ok := c.subs.qos(name)
	if !ok {
		settled(head.Abandon)
		return
	}
	edge := c.srv.opts.Flavor == Edge
	if edge && m.Properties.Get("mqtt-qos") == "0" {
		qos = 0
	}
	d := delivery{topic: name, body: m.Body, qos: qos, settled: settled}
	if n, err := strconv.Atoi(m.System.Get(iothub.DeliveryCount)); err == nil && n > 0 {
		if edge && qos == 0 {
			settled(head.Complete)
			return
		}
		d.dup = true
	}
	if f := c.srv.opts.Events.MessageSent; f != nil {
		size := len(m.Body)
		d.settled = func(o head.Outcome) bool {
			if o == head.Complete {
				f(c.id, size)
			}
			return settled(o)
		}
	}
	c.out.send(d)
}

// DesiredChanged implements head.Client. Without a matching filter nothing is
// sent.
func (c *client) DesiredChanged(patch json.RawMessage, version int64) {
	c.control(topic.Topic{Kind: topic.DesiredChange, Version: version}, patch)
}

// control sends a twin or method packet if the client wants it.
func (c *client) control(t topic.Topic, body []byte) bool {
	name := t.String()
	qos, ok := c.subs.qos(name)
	if ok && len(name) <= topic.MaxLength {
		c.out.control(name, body, qos)
		return true
	}
	return false
}

// Disconnect implements head.Client.
func (c *client) Disconnect(reason error) { c.stop(reason) }

// sendWill hands the will to the Backend unless the client said goodbye or the
// hub itself goes down.
func (c *client) sendWill(reason error) {
	if c.will == nil || reason == nil || errors.Is(reason, head.ErrShutdown) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), willTimeout)
	defer cancel()
	id, log := c.id, c.log
	c.session.Telemetry(ctx, c.will.message(), func(err error) {
		if err != nil {
			log.Warn("mqtt will lost", "identity", id.String(), "err", err)
		}
	})
}

// willTimeout bounds the wait for room in the Backend at the end of a connection.
const willTimeout = 10 * time.Second

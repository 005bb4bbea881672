package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/Azure/go-amqp"

	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// amqpLink is the session of one identity on an AMQP connection. These goroutines
// belong to it: the writer, the settler, and one for each receiving link, of which
// there are four at most. They end when stop is closed, and close waits for them.
// As many again and the session's belong to go-amqp.
type amqpLink struct {
	o       *Options
	conn    *amqpConn
	release func(context.Context) // of conn
	in      receiver
	session *amqp.Session
	sender  *amqp.Sender // of telemetry

	ctx       context.Context // ends with stop
	cancel    context.CancelFunc
	queue     chan *parcel  // to the writer; has room for a whole window
	sent      chan *parcel  // from the writer to the settler; as large
	window    chan struct{} // one token per unsettled message
	stop      chan struct{} // closed by the first fail
	enabling  chan struct{} // held by the one enable under way
	goroutine sync.WaitGroup

	mu       sync.Mutex
	reason   error // why stop is closed
	closed   bool  // takes nothing more
	pending  []*parcel
	requests map[string]chan twinReply
	enabled  features
	unkept   int // messages that were left unsettled
	methods  *amqp.Sender
	twins    *amqp.Sender
	idlers   []chan struct{} // closed when nothing is pending any more
}

// parcel is a message on its way, in the order of sending.
type parcel struct {
	message *amqp.Message
	done    func(error)
	receipt amqp.SendReceipt
	err     error     // it could not be sent
	sent    time.Time // zero before
}

func newAMQPLink(o *Options, conn *amqpConn, release func(context.Context), in receiver) *amqpLink {
	ctx, cancel := context.WithCancel(context.Background())
	return &amqpLink{
		o: o, conn: conn, release: release, in: in,
		ctx: ctx, cancel: cancel,
		queue:    make(chan *parcel, o.Window),
		sent:     make(chan *parcel, o.Window),
		window:   make(chan struct{}, o.Window),
		stop:     make(chan struct{}),
		enabling: make(chan struct{}, 1),
		requests: make(map[string]chan twinReply),
	}
}

// start runs a goroutine of the link, unless that is closed.
func (l *amqpLink) start(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.goroutine.Go(f)
	}
}

// abandon frees what belongs to a link that has not begun.
func (l *amqpLink) abandon(ctx context.Context) {
	l.fail(errGoodbye)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeGrace)
	defer cancel()
	if l.session != nil {
		_ = l.session.Close(ctx)
	}
	l.release(ctx)
}

func (l *amqpLink) ended() <-chan struct{} { return l.stop }

func (l *amqpLink) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason
}

// fail ends the link. On a connection that others use it does no more than that.
func (l *amqpLink) fail(err error) {
	if !errors.Is(err, ErrConnectionLost) {
		err = fmt.Errorf("%w: %w", ErrConnectionLost, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reason == nil {
		l.reason = err
		close(l.stop)
		l.cancel()
	}
}

func (l *amqpLink) close(ctx context.Context) {
	l.fail(errGoodbye)
	l.mu.Lock()
	l.closed = true
	senders := []*amqp.Sender{l.sender, l.methods, l.twins}
	l.mu.Unlock()
	// A message that go-amqp gives up just when its link ends waits until its
	// sender is closed. Nobody waits for the hub here; the session is closed below.
	over, cancel := context.WithCancel(ctx)
	cancel()
	for _, s := range senders {
		if s != nil {
			_ = s.Close(over)
		}
	}
	l.goroutine.Wait()

	l.mu.Lock()
	lost := l.pending
	l.pending = nil
	reason := l.reason
	l.wakeIdlersLocked()
	l.mu.Unlock()
	for _, p := range lost {
		p.done(reason)
	}
	if l.conn.alive() {
		_ = l.session.Close(ctx)
	}
	l.release(ctx)
}

func (l *amqpLink) idle() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := make(chan struct{})
	l.idlers = append(l.idlers, c)
	l.wakeIdlersLocked()
	return c
}

// wakeIdlersLocked is called whenever something has been answered.
func (l *amqpLink) wakeIdlersLocked() {
	if len(l.pending) > 0 || len(l.requests) > 0 {
		return
	}
	for _, c := range l.idlers {
		close(c)
	}
	l.idlers = nil
}

func (l *amqpLink) send(ctx context.Context, m *iothub.Message, done func(error)) error {
	p := &parcel{message: encodeTelemetry(m), done: done}
	select {
	case l.window <- struct{}{}:
	case <-l.stop:
		return errNotTaken
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.reason != nil {
		<-l.window
		return errNotTaken
	}
	l.pending = append(l.pending, p)
	l.queue <- p // has room for a whole window
	return nil
}

const (
	// probeEvery is how often an idle link is looked at. The loss of the connection
	// is seen at once; this is for a hub that takes away the link of one identity.
	probeEvery = 5 * time.Second
	// settleLimit is how long a hub may take to settle a message. The connection is
	// kept alive by what others do on it and says nothing of one session.
	settleLimit = time.Minute
)

// write is the writer. It also watches over the connection.
func (l *amqpLink) write() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case p := <-l.queue:
			p.receipt, p.err = l.sender.SendWithReceipt(patient{l.ctx}, p.message, nil)
			l.mu.Lock()
			p.message, p.sent = nil, time.Now()
			l.mu.Unlock()
			if p.err != nil && over(p.err) {
				l.fail(amqpError(p.err))
				return
			}
			l.sent <- p // has room for a whole window
		case <-tick.C:
			l.probe()
		case <-l.conn.conn.Done():
			l.fail(l.conn.err())
			return
		case <-l.stop:
			return
		}
	}
}

// unsendable is refused by go-amqp before it is sent, for its delivery tag, but
// after a look at the link.
var unsendable = &amqp.Message{DeliveryTag: make([]byte, 33), Data: [][]byte{nil}}

// probe asks go-amqp whether the link is still there, without a word to the hub,
// and looks at how long the oldest message waits.
func (l *amqpLink) probe() {
	l.mu.Lock()
	late := len(l.pending) > 0 && !l.pending[0].sent.IsZero() && time.Since(l.pending[0].sent) > settleLimit
	l.mu.Unlock()
	if late {
		l.fail(ErrTimeout)
		return
	}
	if _, err := l.sender.SendWithReceipt(patient{l.ctx}, unsendable, nil); err != nil && over(err) {
		l.fail(amqpError(err))
	}
}

// settle is the settler: it reports the hub's answers in the order of sending. When
// a message has to be sent again the link ends, so that none overtakes it: those
// that follow are sent again behind it.
func (l *amqpLink) settle() {
	for {
		var p *parcel
		select {
		case p = <-l.sent:
		case <-l.stop:
			return
		}
		if p.err == nil {
			state, err := p.receipt.Wait(l.ctx)
			if err != nil {
				l.fail(amqpError(err))
				return
			}
			if p.err, err = verdict(state); err != nil {
				l.fail(err)
				return
			}
		} else if l.err() != nil {
			return // it was given up
		} else if condition(p.err) == amqp.ErrCondMessageSizeExceeded {
			p.err = fmt.Errorf("%w: %w", ErrTooLarge, p.err)
		} else { // it has no form in AMQP
			p.err = fmt.Errorf("%w: %w", ErrRejected, p.err)
		}
		l.settled(p)
	}
}

// verdict reads the outcome of a message: refused is why the hub will never take
// it, again why it has to be sent again.
func verdict(state amqp.DeliveryState) (refused, again error) {
	switch s := state.(type) {
	case *amqp.StateAccepted:
		return nil, nil
	case *amqp.StateRejected:
		if refused := rejection(s.Error); refused != nil {
			return refused, nil
		}
		return nil, amqpError(s.Error)
	case nil:
		return nil, errors.New("the hub has settled a message without an outcome")
	default:
		return nil, fmt.Errorf("the hub gave a message back: %T", state)
	}
}

// settled tells of the oldest pending message.
func (l *amqpLink) settled(p *parcel) {
	l.mu.Lock()
	l.pending[0] = nil
	l.pending = l.pending[1:]
	if len(l.pending) == 0 {
		l.pending = nil // its memory is for busy times
	}
	l.mu.Unlock()
	<-l.window
	p.done(p.err)
	l.mu.Lock()
	l.wakeIdlersLocked()
	l.mu.Unlock()
}

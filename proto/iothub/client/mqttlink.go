package client

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub"
	"github.com/breakwater-iot/breakwater/proto/iothub/topic"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// mqttLink is one MQTT connection. Three goroutines belong to it: the reader, the
// writer and the pinger. They end when stop is closed, and close waits for them.
type mqttLink struct {
	identity iothub.Identity
	timeout  time.Duration
	log      *slog.Logger
	conn     *stream
	in       receiver

	out       chan packets.ControlPacket // to the writer
	window    chan struct{}              // one token per unacknowledged message
	stop      chan struct{}              // closed by the first fail
	said      chan struct{}              // closed when DISCONNECT is on its way
	enabling  chan struct{}              // held by the one enable under way
	goroutine sync.WaitGroup

	mu          sync.Mutex
	reason      error // why stop is closed
	leaving     bool  // DISCONNECT is under way
	closed      bool  // takes nothing more
	lastID      uint16
	sequence    uint64
	pending     map[uint16]*flight
	subs        map[uint16]chan []byte
	requests    map[string]chan topicReply
	lastRID     uint64
	undelivered int  // messages with the receiver
	overflowed  bool // takes no more messages; ends when none is undelivered
	enabled     features
	idlers      []chan struct{} // closed when nothing is pending any more
}

// flight is a message that waits for its PUBACK.
type flight struct {
	sequence uint64
	done     func(error)
}

// spare is the room in the writer's queue for what is no message.
const spare = 64

func newMQTTLink(o *Options, conn *stream, br *bufio.Reader, in receiver) *mqttLink {
	l := &mqttLink{
		identity: o.Identity,
		timeout:  o.RequestTimeout,
		log:      o.Logger,
		conn:     conn,
		in:       in,
		out:      make(chan packets.ControlPacket, o.Window+spare),
		window:   make(chan struct{}, o.Window),
		stop:     make(chan struct{}),
		said:     make(chan struct{}),
		enabling: make(chan struct{}, 1),
		pending:  make(map[uint16]*flight),
		subs:     make(map[uint16]chan []byte),
		requests: make(map[string]chan topicReply),
	}
	l.goroutine.Go(func() { l.read(br) })
	l.goroutine.Go(l.write)
	l.goroutine.Go(func() { l.ping(o.KeepAlive / 2) })
	return l
}

func (l *mqttLink) ended() <-chan struct{} { return l.stop }

func (l *mqttLink) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason
}

func (l *mqttLink) fail(err error) {
	if !errors.Is(err, ErrConnectionLost) {
		err = fmt.Errorf("%w: %w", ErrConnectionLost, err)
	}
	l.mu.Lock()
	first := l.reason == nil
	if first {
		switch { // the hub may hang up first
		case l.leaving:
			err = errGoodbye
		case l.overflowed:
			err = fmt.Errorf("%w: %w", ErrConnectionLost, ErrOverflow)
		}
		l.reason = err
		close(l.stop)
	}
	l.mu.Unlock()
	if first {
		l.conn.hangUp()
	}
}

func (l *mqttLink) close(ctx context.Context) {
	l.mu.Lock()
	l.leaving = true
	l.mu.Unlock()
	select {
	case l.out <- packets.NewControlPacket(packets.Disconnect):
		select {
		case <-l.said:
		case <-l.stop:
		case <-ctx.Done():
		}
	case <-l.stop:
	case <-ctx.Done():
	}
	l.fail(errGoodbye)
	l.goroutine.Wait()

	l.mu.Lock()
	l.closed = true
	lost := make([]*flight, 0, len(l.pending))
	for _, f := range l.pending {
		lost = append(lost, f)
	}
	clear(l.pending)
	reason := l.reason
	l.wakeIdlersLocked()
	l.mu.Unlock()
	slices.SortFunc(lost, func(a, b *flight) int { return cmp.Compare(a.sequence, b.sequence) })
	for _, f := range lost {
		f.done(reason)
	}
}

// renew: MQTT takes a token at the login only.
func (l *mqttLink) renew(context.Context, credential) error { return errors.ErrUnsupported }

func (l *mqttLink) idle() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := make(chan struct{})
	l.idlers = append(l.idlers, c)
	l.wakeIdlersLocked()
	return c
}

// wakeIdlersLocked is called whenever something has been answered.
func (l *mqttLink) wakeIdlersLocked() {
	if len(l.pending) > 0 || len(l.requests) > 0 {
		return
	}
	for _, c := range l.idlers {
		close(c)
	}
	l.idlers = nil
}

func (l *mqttLink) send(ctx context.Context, m *iothub.Message, done func(error)) error {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos = 1
	p.TopicName = topic.Topic{Kind: topic.Telemetry, Identity: l.identity, Bag: topic.EncodeBag(m, topic.ToHub)}.String()
	p.Payload = m.Body
	if len(p.TopicName) > topic.MaxLength {
		return fmt.Errorf("%w: properties", ErrTooLarge)
	}
	select {
	case l.window <- struct{}{}:
	case <-l.stop:
		return errNotTaken
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.mu.Lock()
	if l.closed || l.reason != nil {
		l.mu.Unlock()
		<-l.window
		return errNotTaken
	}
	p.MessageID = l.newIDLocked()
	l.sequence++
	l.pending[p.MessageID] = &flight{l.sequence, done}
	// Under the lock, so that the order on the wire is that of the sequence. The
	// queue has room for a whole window; only if other packets took it there is a
	// wait, outside the lock.
	select {
	case l.out <- p:
		l.mu.Unlock()
		return nil
	default:
	}
	l.mu.Unlock()
	select {
	case l.out <- p:
		return nil
	case <-l.stop: // close will call done
		return nil
	case <-ctx.Done():
		return l.takeBack(p.MessageID, context.Cause(ctx))
	}
}

// takeBack forgets a message that never reached the writer. If the link has ended
// meanwhile, close may have called done already.
func (l *mqttLink) takeBack(id uint16, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending[id] == nil {
		return nil
	}
	delete(l.pending, id)
	<-l.window
	l.wakeIdlersLocked()
	return err
}

// newIDLocked finds a packet identifier that is not in use. There is always one:
// window and subscriptions are far fewer.
func (l *mqttLink) newIDLocked() uint16 {
	for {
		l.lastID++
		if l.lastID != 0 && l.pending[l.lastID] == nil && l.subs[l.lastID] == nil {
			return l.lastID
		}
	}
}

// post queues a packet that nobody waits for, or whose answer is awaited
// elsewhere.
func (l *mqttLink) post(ctx context.Context, p packets.ControlPacket) error {
	select {
	case l.out <- p:
		return nil
	case <-l.stop:
		return errNotTaken
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write is the writer: it sends what is queued and flushes when the queue is
// empty.
func (l *mqttLink) write() {
	bw := bufio.NewWriterSize(l.conn, 16<<10)
	for {
		var p packets.ControlPacket
		select {
		case p = <-l.out:
		case <-l.stop:
			return
		}
		goodbye := false
		for p != nil {
			if err := p.Write(bw); err != nil {
				l.fail(fmt.Errorf("write: %w", err))
				return
			}
			if _, goodbye = p.(*packets.DisconnectPacket); goodbye {
				break
			}
			select {
			case p = <-l.out:
			default:
				p = nil
			}
		}
		if err := bw.Flush(); err != nil {
			l.fail(fmt.Errorf("write: %w", err))
			return
		}
		if goodbye {
			close(l.said)
			l.mu.Lock()
			overflowed := l.overflowed
			l.mu.Unlock()
			if overflowed {
				l.fail(ErrOverflow)
			}
			return
		}
	}
}

// ping keeps the connection alive in both directions; the reader fails when no
// answer comes.
func (l *mqttLink) ping(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			select {
			case l.out <- packets.NewControlPacket(packets.Pingreq):
			default: // the writer is stuck, and the reader will notice
			}
		case <-l.stop:
			return
		}
	}
}

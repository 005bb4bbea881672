package mqtt

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/breakwater-iot/breakwater/hub/internal/head"
)

// errSlow ends the connection of a client that does not take what it subscribed
// to.
var errSlow = errors.New("client takes its messages too slowly")

// Bounds of the outbox in bytes that wait for the writer: deliveries stop at the
// soft one and wait in the queue, everything else may go up to the hard one.
const (
	softBuffer = 128 << 10
	hardBuffer = 2 << 20
	// maxControl bounds twin and method packets of QoS 1 without PUBACK.
	maxControl = 1024
	// keepBuffer is the largest write buffer that is kept for the next write.
	keepBuffer = 64 << 10
)

// delivery is one PUBLISH towards the client.
type delivery struct {
	topic   string
	body    []byte
	qos     byte
	dup     bool
	settled func(head.Outcome) bool // nil for twin and method packets
}

func (d *delivery) size() int { return len(d.topic) + len(d.body) }

// outbox gathers what goes to one client and writes it with as few writes as
// possible. Deliveries that ask to be settled are subject to a window of
// unacknowledged ones and wait in a queue; acknowledgements and twin and method
// packets pass them.
//
// All methods may be called concurrently; settle functions are called without a
// lock held.
type outbox struct {
	window, maxQueued, maxQueuedBytes int
	slow                              func() // called once and without lock when a bound is hit
	wake                              chan struct{}

	mu          sync.Mutex
	closed      bool
	writing     bool // somebody writes what was taken from buf
	held        bool // the holder writes acknowledgements
	buf, spare  []byte
	unwritten   []delivery // QoS 0 deliveries that are in buf
	queue       []delivery // waiting for window or buffer
	queuedBytes int
	inflight    map[uint16]delivery // QoS 1, written or in buf
	windowed    int                 // how many of inflight count for the window
	lastID      uint16
	slowOnce    sync.Once
}

func newOutbox(o *Options, slow func()) *outbox {
	return &outbox{
		window: o.Window, maxQueued: o.MaxQueued, maxQueuedBytes: o.MaxQueuedBytes,
		slow: slow, wake: make(chan struct{}, 1), inflight: make(map[uint16]delivery),
	}
}

// puback acknowledges a publish of the client.
func (o *outbox) puback(id uint16) {
	o.mu.Lock()
	if !o.closed {
		o.buf = append(o.buf, 0x40, 2, byte(id>>8), byte(id))
	}
	held := o.held
	o.mu.Unlock()
	if !held {
		o.signal()
	}
}

// hold leaves it to the caller to write the acknowledgements that come until release,
// with write.
func (o *outbox) hold() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held = true
}

// release undoes hold.
func (o *outbox) release() {
	o.mu.Lock()
	o.held = false
	left := len(o.buf) > 0 && !o.writing
	o.mu.Unlock()
	if left {
		o.signal()
	}
}

// send queues a delivery that will be settled. Past the bounds it settles it as
// Lost and gives the connection up.
func (o *outbox) send(d delivery) {
	o.mu.Lock()
	if o.closed || len(o.queue) >= o.maxQueued || (len(o.queue) > 0 && o.queuedBytes+d.size() > o.maxQueuedBytes) {
		closed := o.closed
		o.mu.Unlock()
		d.settled(head.Lost)
		if !closed {
			o.slowOnce.Do(o.slow)
		}
		return
	}
	o.queue = append(o.queue, d)
	o.queuedBytes += d.size()
	o.fill()
	o.mu.Unlock()
	o.signal()
}

// control sends a twin or method packet past the queue.
func (o *outbox) control(topic string, body []byte, qos byte) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	if len(o.buf) > hardBuffer || len(o.inflight)-o.windowed >= maxControl {
		o.mu.Unlock()
		o.slowOnce.Do(o.slow)
		return
	}
	o.encode(delivery{topic: topic, body: body, qos: qos})
	o.mu.Unlock()
	o.signal()
}

// acked takes a PUBACK of the client; ids that are not in flight are ignored.
func (o *outbox) acked(id uint16) {
	o.mu.Lock()
	d, ok := o.inflight[id]
	if !ok {
		o.mu.Unlock()
		return
	}
	delete(o.inflight, id)
	if d.settled != nil {
		o.windowed--
		o.fill()
	}
	more := len(o.buf) > 0
	o.mu.Unlock()
	if more {
		o.signal()
	}
	if d.settled != nil {
		d.settled(head.Complete)
	}
}

// fill moves deliveries from the queue into the buffer as the bounds allow.
func (o *outbox) fill() {
	n := 0
	for n < len(o.queue) && len(o.buf) < softBuffer {
		if o.queue[n].qos > 0 && o.windowed >= o.window {
			break
		}
		o.queuedBytes -= o.queue[n].size()
		o.encode(o.queue[n])
		o.queue[n] = delivery{}
		n++
	}
	if n == len(o.queue) {
		o.queue = o.queue[:0]
	} else {
		o.queue = o.queue[n:]
	}
}

// encode appends the PUBLISH to the buffer and gives it a packet id for QoS 1.
func (o *outbox) encode(d delivery) {
	first := byte(0x30) | d.qos<<1
	n := 2 + d.size()
	if d.qos > 0 {
		n += 2
		if d.dup {
			first |= 8
		}
	}
	o.buf = append(o.buf, first)
	o.buf = binary.AppendUvarint(o.buf, uint64(n)) // MQTT's "remaining length" is the same code
	o.buf = binary.BigEndian.AppendUint16(o.buf, uint16(len(d.topic)))
	o.buf = append(o.buf, d.topic...)
	if d.qos > 0 {
		id := o.nextID()
		o.buf = binary.BigEndian.AppendUint16(o.buf, id)
	}
	o.buf = append(o.buf, d.body...)
	switch {
	case d.qos > 0:
		// What is kept does not hold the message any longer than needed.
		o.inflight[o.lastID] = delivery{settled: d.settled}
		if d.settled != nil {
			o.windowed++
		}
	case d.settled != nil:
		o.unwritten = append(o.unwritten, delivery{settled: d.settled})
	}
}

// nextID finds a free packet id; window and maxControl leave plenty.
func (o *outbox) nextID() uint16 {
	for {
		o.lastID++
		if _, used := o.inflight[o.lastID]; !used && o.lastID != 0 {
			return o.lastID
		}
	}
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run writes to w what comes until the context ends or a write fails.
func (o *outbox) run(ctx context.Context, w io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-o.wake:
		}
		for more := true; more; {
			var err error
			if more, err = o.write(w); err != nil {
				return err
			}
		}
	}
}

// write writes what is in the buffer, unless somebody else is writing, and tells
// whether there is more.
func (o *outbox) write(w io.Writer) (more bool, err error) {
	buf, unwritten := o.take()
	if len(buf) == 0 {
		return false, nil
	}
	if _, err := w.Write(buf); err != nil {
		settle(unwritten, head.Lost)
		return false, err
	}
	settle(unwritten, head.Complete)
	return o.give(buf), nil
}

// take begins to write. Nothing is returned when there is nothing, or it has begun
// already.
func (o *outbox) take() (buf []byte, unwritten []delivery) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing || len(o.buf) == 0 {
		return nil, nil
	}
	o.writing = true
	buf, unwritten = o.buf, o.unwritten
	o.buf, o.spare, o.unwritten = o.spare[:0], nil, nil
	return buf, unwritten
}

// give ends it, returns a written buffer, and goes on with the queue.
func (o *outbox) give(buf []byte) (more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing = false
	if cap(buf) <= keepBuffer {
		o.spare = buf[:0]
	}
	o.fill()
	return len(o.buf) > 0
}

// close refuses everything from now on and settles as Lost what is unsettled.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	lost := o.unwritten
	for _, d := range o.inflight {
		lost = append(lost, d)
	}
	lost = append(lost, o.queue...)
	o.buf, o.unwritten, o.queue, o.queuedBytes, o.windowed = nil, nil, nil, 0, 0
	clear(o.inflight)
	o.mu.Unlock()
	settle(lost, head.Lost)
}

func settle(list []delivery, outcome head.Outcome) {
	for i := range list {
		if list[i].settled != nil {
			list[i].settled(outcome)
		}
	}
}

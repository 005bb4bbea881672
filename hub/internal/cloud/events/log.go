package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// Defaults of Options.
const (
	DefaultPartitions = 4
	defaultMaxEvents  = 1 << 20
	defaultMaxBytes   = 1 << 30
	defaultPending    = 64 << 20
)

// Options configure Open; zero values mean the defaults.
type Options struct {
	// Partitions may not change while the log lives.
	Partitions int
	// MaxEvents and MaxBytes bound the log; the oldest events go first.
	MaxEvents, MaxBytes uint64
	// MaxPending bounds the bytes of appends that are not durable yet.
	MaxPending int64
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Log is the event log. All methods may be called concurrently.
type Log struct {
	s      *store.Store
	bucket store.Bucket
	o      Options
	room   *semaphore.Weighted
	trim   chan struct{} // holds one signal for Run

	mu    sync.Mutex // also orders the commits; held while Commit blocks
	head  head
	marks []mark // in order
	// refused counts bytes in head of records that the store did not take.
	refused atomic.Uint64

	read    sync.Mutex // below mu
	durable uint64     // every position below is decided
	more    chan struct{}
	newest  []*header // by partition, of what was appended since the start and is durable
}

// Open reads the state of the log in s.
func Open(s *store.Store, o Options) (*Log, error) {
	if o.Partitions == 0 {
		o.Partitions = DefaultPartitions
	}
	if o.MaxEvents == 0 {
		o.MaxEvents = defaultMaxEvents
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.MaxPending == 0 {
		o.MaxPending = defaultPending
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{s: s, bucket: s.Bucket("cloud.events"), o: o, room: semaphore.NewWeighted(o.MaxPending),
		trim: make(chan struct{}, 1), more: make(chan struct{}), newest: make([]*header, o.Partitions)}
	if err := l.load(); err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	return l, nil
}

func (l *Log) load() error {
	l.head = head{partitions: make([]counters, l.o.Partitions)}
	raw, err := l.bucket.Get("head")
	switch {
	case err == nil:
		if l.head, err = decodeHead(raw); err != nil {
			return fmt.Errorf("counters: %w", err)
		}
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if n := len(l.head.partitions); n != l.o.Partitions {
		return fmt.Errorf("it has %d partitions and cannot get %d", n, l.o.Partitions)
	}
	// A crash may leave events behind the counters when a large group was split.
	err = l.s.Scan([]byte(keyPrefix), key(l.head.next), func(k, v []byte) error {
		position, ok := positionOf(k)
		if !ok {
			return errRecord
		}
		e, err := decodeEvent(position, v)
		if err != nil {
			return err
		}
		if e.Partition >= len(l.head.partitions) {
			return errRecord
		}
		l.head.next = position + 1
		l.head.bytes += uint64(len(v))
		l.head.partitions[e.Partition] = counters{sequence: e.Sequence + 1, offset: e.Offset + int64(len(v))}
		return nil
	})
	if err != nil {
		return err
	}
	l.durable = l.head.next
	if err := l.loadMarks(); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

// Append adds an event; position, partition, sequence, offset and time are set by
// the log. done is called exactly once, in the order of Append, with nil when the
// event is on disk; it must not block. Append blocks while too much is pending; if
// ctx ends meanwhile done gets its error.
func (l *Log) Append(ctx context.Context, e Event, done func(error)) {
	// The room of a record is not known before it is encoded; this is close.
	need := min(int64(e.Message.Size())+256, l.o.MaxPending)
	if err := l.room.Acquire(ctx, need); err != nil {
		l.After(func() { done(err) })
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Position = l.head.next
	e.Partition = Partition(e.Sender.Device, len(l.head.partitions))
	c := &l.head.partitions[e.Partition]
	e.Sequence, e.Offset, e.Enqueued = c.sequence, c.offset, l.o.Now()
	record := e.encode()
	var b store.Batch
	l.addMark(&b, e.Enqueued.UnixMilli())
	c.sequence++
	c.offset += int64(len(record))
	l.head.next++
	l.head.bytes += uint64(len(record))
	l.head.bytes -= min(l.refused.Swap(0), l.head.bytes)

	b.Put(key(e.Position), record)
	b.Put(l.bucket.Key("head"), l.head.encode())
	l.s.Commit(&b, func(err error) {
		l.room.Release(need)
		l.decided(&e, err == nil)
		if err != nil {
			l.refused.Add(uint64(len(record)))
			err = fmt.Errorf("append event: %w", err)
		}
		done(err)
	})
	if l.head.next-l.head.first > l.o.MaxEvents || l.head.bytes > l.o.MaxBytes {
		select {
		case l.trim <- struct{}{}:
		default:
		}
	}
}

// After calls fn, which must not block, behind the done functions of all earlier
// appends.
func (l *Log) After(fn func()) {
	l.s.Commit(&store.Batch{}, func(error) { fn() })
}

// decided lets readers see the event, if it is on disk, and all before it.
func (l *Log) decided(e *Event, stored bool) {
	next := e.Position + 1
	l.read.Lock()
	defer l.read.Unlock()
	if stored {
		l.newest[e.Partition] = &header{e.Partition, e.Sequence, e.Offset, e.Enqueued.UnixMilli()}
	}
	if next > l.durable {
		l.durable = next
		close(l.more)
		l.more = make(chan struct{})
	}
}

// Next returns the position that the next event will get at least.
func (l *Log) Next() uint64 {
	l.read.Lock()
	defer l.read.Unlock()
	return l.durable
}

// Wait returns nil when there may be events at from or later, or the error of ctx.
func (l *Log) Wait(ctx context.Context, from uint64) error {
	for {
		l.read.Lock()
		durable, more := l.durable, l.more
		l.read.Unlock()
		if durable > from {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readBytes bounds what one Read holds in memory.
const readBytes = 4 << 20

// Read returns at most limit events at from or later, in order, and the position
// where to go on. Events that were removed are passed over in silence.
func (l *Log) Read(from uint64, limit int) ([]Event, uint64, error) {
	l.mu.Lock()
	from = max(from, l.head.first)
	l.mu.Unlock()
	end := l.Next()
	var list []Event
	bytes := 0
	full := false
	err := l.s.Scan([]byte(keyPrefix), key(from), func(k, v []byte) error {
		position, ok := positionOf(k)
		if !ok {
			return errRecord
		}
		if position >= end {
			return store.ErrStop
		}
		if len(list) >= limit || bytes > readBytes {
			full = true
			return store.ErrStop
		}
		e, err := decodeEvent(position, v)
		if err != nil {
			return fmt.Errorf("event %d: %w", position, err)
		}
		list, bytes = append(list, e), bytes+len(v)
		return nil
	})
	switch {
	case err != nil:
		return nil, from, fmt.Errorf("read events: %w", err)
	case full:
		return list, list[len(list)-1].Position + 1, nil
	}
	return list, max(from, end), nil
}

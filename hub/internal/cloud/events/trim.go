package events

import (
	"context"
	"fmt"

	"github.com/breakwater-iot/breakwater/hub/internal/store"
)

// trimStep is how many events go in one write.
const trimStep = 1024

// Run removes the oldest events while the log is over its bounds, until ctx ends.
// The log may exceed them for a moment.
func (l *Log) Run(ctx context.Context) error {
	for {
		select {
		case <-l.trim:
		case <-ctx.Done():
			return nil
		}
		for {
			again, err := l.trimOnce(ctx)
			if err != nil {
				return fmt.Errorf("trim events: %w", err)
			}
			if !again || ctx.Err() != nil {
				break
			}
		}
	}
}

// excess tells by how much the log is over its bounds.
func (l *Log) excess() (from uint64, events, bytes uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.head.next - l.head.first; n > l.o.MaxEvents {
		events = n - l.o.MaxEvents
	}
	if l.head.bytes > l.o.MaxBytes {
		bytes = l.head.bytes - l.o.MaxBytes
	}
	return l.head.first, events, bytes
}

func (l *Log) trimOnce(ctx context.Context) (again bool, err error) {
	from, events, bytes := l.excess()
	if events == 0 && bytes == 0 {
		return false, nil
	}
	var b store.Batch
	var count, freed uint64
	next := from
	end := l.Next()
	err = l.s.Scan([]byte(keyPrefix), key(from), func(k, v []byte) error {
		position, ok := positionOf(k)
		if !ok {
			return errRecord
		}
		if count >= trimStep || position >= end || (position+1-from > events && freed >= bytes) {
			return store.ErrStop
		}
		b.Delete(append([]byte(nil), k...), len(v))
		count++
		freed += uint64(len(v))
		next = position + 1
		return nil
	})
	if err != nil || count == 0 {
		return false, err
	}
	result := make(chan error, 1)
	l.mu.Lock()
	l.head.first = next
	l.head.bytes -= min(freed, l.head.bytes)
	l.dropMarks(&b)
	b.Put(l.bucket.Key("head"), l.head.encode())
	l.s.Commit(&b, func(err error) { result <- err })
	l.mu.Unlock()
	select {
	case err := <-result:
		return err == nil, err
	case <-ctx.Done():
		return false, nil
	}
}

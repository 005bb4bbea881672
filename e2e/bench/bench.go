package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// Shape is a load: publishers, and messages that each has in flight.
type Shape struct{ Publishers, InFlight int }

func (s Shape) String() string { return fmt.Sprintf("%d x %d", s.Publishers, s.InFlight) }

// Sample is what one run of one shape has measured.
type Sample struct {
	Acked, Delivered         float64 // messages a second
	AckP50, AckP99           time.Duration
	DeliveredP50, DeliverP99 time.Duration
}

const payloadSize = 256

// measure loads a peer for some time, and waits until all is delivered.
func measure(ctx context.Context, p peer, s Shape, d time.Duration) (Sample, error) {
	var sent, delivered atomic.Int64
	var lastDelivery atomic.Int64
	began := time.Now()
	deliveries := make([]time.Duration, 0, 1<<20)
	all := make(chan struct{}, 1)
	var ended atomic.Bool
	o := p.subscriber()
	o.OnMessage = func(_ string, payload []byte) {
		at := time.Since(began)
		deliveries = append(deliveries, at-time.Duration(binary.BigEndian.Uint64(payload)))
		lastDelivery.Store(int64(at))
		if delivered.Add(1) == sent.Load() && ended.Load() {
			select {
			case all <- struct{}{}:
			default:
			}
		}
	}
	sub, err := mqttload.Dial(ctx, o)
	if err != nil {
		return Sample{}, fmt.Errorf("subscriber: %w", err)
	}
	defer sub.Close()
	if err := sub.Subscribe(ctx, p.filter()); err != nil {
		return Sample{}, fmt.Errorf("subscribe: %w", err)
	}
	pubs := make([]*publisher, s.Publishers)
	for i := range pubs {
		c, err := p.publisher(ctx, i)
		if err != nil {
			return Sample{}, fmt.Errorf("publisher %d: %w", i, err)
		}
		defer c.Close()
		pubs[i] = &publisher{c: c, began: began, sent: &sent}
	}
	start := time.Since(began)
	var wg sync.WaitGroup
	errs := make([]error, len(pubs))
	for i, pub := range pubs {
		wg.Go(func() { errs[i] = pub.run(s.InFlight, d) })
	}
	wg.Wait()
	acked := time.Since(began) - start
	if err := errors.Join(errs...); err != nil {
		return Sample{}, err
	}
	ended.Store(true)
	if delivered.Load() < sent.Load() {
		select {
		case <-all:
		case <-sub.Done():
			return Sample{}, fmt.Errorf("subscriber: %w", sub.Err())
		case <-time.After(60 * time.Second):
			return Sample{}, fmt.Errorf("%d of %d are not delivered after a minute", sent.Load()-delivered.Load(), sent.Load())
		}
	}
	var acks []time.Duration
	for _, pub := range pubs {
		acks = append(acks, pub.latencies...)
	}
	sub.Close() // after which nobody appends to deliveries
	n := float64(sent.Load())
	return Sample{
		Acked: n / acked.Seconds(), Delivered: n / (time.Duration(lastDelivery.Load()) - start).Seconds(),
		AckP50: percentile(acks, 50), AckP99: percentile(acks, 99),
		DeliveredP50: percentile(deliveries, 50), DeliverP99: percentile(deliveries, 99),
	}, nil
}

// sender is the publisher's end of a connection. Methods are those of
// mqttload.Client.
type sender interface {
	send(payload []byte, acked func()) error
	Flush() error
	Done() <-chan struct{}
	Err() error
	Close()
}

type publisher struct {
	c         sender
	began     time.Time
	sent      *atomic.Int64
	latencies []time.Duration
}

// run publishes for some time, and waits for the last acknowledgement.
func (p *publisher) run(inFlight int, d time.Duration) error {
	end := time.Now().Add(d)
	return p.publish(inFlight, func() bool { return time.Now().Before(end) })
}

// count publishes n messages, and waits for the last acknowledgement.
func (p *publisher) count(inFlight, n int) error {
	return p.publish(inFlight, func() bool { n--; return n >= 0 })
}

func (p *publisher) publish(inFlight int, more func() bool) error {
	slots := make(chan struct{}, inFlight)
	payload := make([]byte, payloadSize)
	for more() {
		select {
		case slots <- struct{}{}:
		default:
			if err := p.c.Flush(); err != nil {
				return err
			}
			select {
			case slots <- struct{}{}:
			case <-p.c.Done():
				return fmt.Errorf("publisher: %w", p.c.Err())
			}
		}
		at := time.Since(p.began)
		binary.BigEndian.PutUint64(payload, uint64(at))
		p.sent.Add(1)
		err := p.c.send(payload, func() {
			p.latencies = append(p.latencies, time.Since(p.began)-at)
			<-slots
		})
		if err != nil {
			return err
		}
	}
	if err := p.c.Flush(); err != nil {
		return err
	}
	for range inFlight { // all slots are ours again when all is acknowledged
		select {
		case slots <- struct{}{}:
		case <-p.c.Done():
			return fmt.Errorf("publisher: %w", p.c.Err())
		}
	}
	return nil
}

func percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, len(d)*p/100)]
}

// median returns the sample that holds the median of each figure.
func median(list []Sample) Sample {
	return Sample{
		Acked:        middle(list, func(s Sample) float64 { return s.Acked }),
		Delivered:    middle(list, func(s Sample) float64 { return s.Delivered }),
		AckP50:       middle(list, func(s Sample) time.Duration { return s.AckP50 }),
		AckP99:       middle(list, func(s Sample) time.Duration { return s.AckP99 }),
		DeliveredP50: middle(list, func(s Sample) time.Duration { return s.DeliveredP50 }),
		DeliverP99:   middle(list, func(s Sample) time.Duration { return s.DeliverP99 }),
	}
}

func middle[T float64 | time.Duration](list []Sample, of func(Sample) T) T {
	values := make([]T, len(list))
	for i, s := range list {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// shapes are the loads; the last is the one that the design has bars for.
var shapes = []Shape{{1, 1}, {1, 64}, {8, 64}}

// Names of the peers that bars compare.
const (
	oneRoute, manyRoutes, bareMochi, natsAlways = "edgehub", "edgehub, 100 routes", "mochi", "nats"
)

// load measures all servers in turns and prints their table.
func load(ctx context.Context, o Options) (bars []Bar, err error) {
	var ends []func() error
	defer func() {
		for _, end := range slices.Backward(ends) {
			err = errors.Join(err, end())
		}
	}()
	one, err := startEdgehub(ctx, oneRoute, o.dir("one-route"), o.Bin, 8, 1)
	ends = append(ends, one.close)
	if err != nil {
		return nil, err
	}
	many, err := startEdgehub(ctx, manyRoutes, o.dir("many-routes"), o.Bin, 8, 100)
	ends = append(ends, many.close)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.dir("brokers"), 0o700); err != nil {
		return nil, err
	}
	brokers, err := startBrokers(o.dir("brokers"), o.Bin)
	for _, b := range brokers {
		ends = append(ends, func() error { b.p.Kill(); return nil })
	}
	if err != nil {
		return nil, err
	}
	peers := []peer{one, many, throughAMQP{one}}
	for _, b := range brokers {
		peers = append(peers, b)
	}
	for _, p := range peers {
		if err := waitFor(ctx, p); err != nil {
			return nil, err
		}
	}
	if !pause(ctx, 3*time.Second) {
		return nil, ctx.Err()
	}
	rest := make(map[string]memory)
	for _, p := range peers {
		if rest[p.name()], err = memoryOf(p.process().PID()); err != nil {
			return nil, err
		}
	}
	r := &results{peers: peers, samples: make(map[string][]Sample), rest: rest}
	if err := r.measure(ctx, o); err != nil {
		return nil, err
	}
	return r.bars(), r.print(o)
}

// results are what the load has measured.
type results struct {
	peers   []peer
	samples map[string][]Sample // by peer and shape
	rest    map[string]memory   // by peer
	syncs   []time.Duration     // one in each round, since the disk changes too
}

func (r *results) measure(ctx context.Context, o Options) error {
	for round := range o.Rounds {
		floor, err := fdatasync(o.Dir, 300)
		if err != nil {
			return err
		}
		r.syncs = append(r.syncs, floor)
		for _, s := range shapes {
			for _, p := range r.peers {
				m, err := measure(ctx, p, s, o.For)
				if err != nil {
					return fmt.Errorf("%s, %v: %w", p.name(), s, err)
				}
				o.Say("round %d: %v %-19s %8.0f acked/s %8.0f delivered/s", round+1, s, p.name(), m.Acked, m.Delivered)
				r.samples[p.name()+s.String()] = append(r.samples[p.name()+s.String()], m)
			}
		}
	}
	return nil
}

func (r *results) of(name string, s Shape) Sample { return median(r.samples[name+s.String()]) }

// bars are what the design asks for.
func (r *results) bars() []Bar {
	full, serial := shapes[len(shapes)-1], shapes[0]
	hub, sync := r.of(oneRoute, full), medianOf(r.syncs)
	against := func(name string, limit float64) Bar {
		m := r.of(name, full)
		least := min(hub.Acked/m.Acked, hub.Delivered/m.Delivered)
		return Bar{"ingest, " + full.String() + ", acked and delivered, beside " + name, fmt.Sprintf("at least %v x", limit), fmt.Sprintf("%.2f x", least), least >= limit}
	}
	p50 := r.of(oneRoute, serial).AckP50
	syncsFor := float64(p50) / float64(sync)
	routed := hub.Delivered / hub.Acked
	many := r.of(manyRoutes, full)
	cost := max(hub.Acked/many.Acked, hub.Delivered/many.Delivered)
	return []Bar{
		against(bareMochi, 0.6), against(natsAlways, 8),
		{"serial durable publish, p50, beside one fdatasync", "at most 3 x", fmt.Sprintf("%.2f x (%v, %v)", syncsFor, short(p50), short(sync)), syncsFor <= 3},
		{"module to module with a condition, beside the ingest", "at least 0.5 x", fmt.Sprintf("%.2f x", routed), routed >= 0.5},
		{"100 routes beside 1, cost of a message, acked or delivered", "at most 1.3 x", fmt.Sprintf("%.2f x", cost), cost <= 1.3},
	}
}

func (r *results) print(o Options) error {
	w := table(o.Out)
	fmt.Fprintln(w, "load\tserver\tacked/s\tdelivered/s\tack p50\tp99\tdelivery p50\tp99\tedgehub is, acked\tdelivered\t")
	for _, s := range shapes {
		hub := r.of(oneRoute, s)
		for _, p := range r.peers {
			m := r.of(p.name(), s)
			fmt.Fprintf(w, "%v\t%s\t%.0f\t%.0f\t%v\t%v\t%v\t%v\t%.2f x\t%.2f x\t\n", s, p.name(), m.Acked, m.Delivered,
				short(m.AckP50), short(m.AckP99), short(m.DeliveredP50), short(m.DeliverP99),
				hub.Acked/m.Acked, hub.Delivered/m.Delivered)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "\n%d-byte messages, QoS 1 (AMQP: unsettled), TLS, one subscriber over MQTT; median of %d rounds of %v\n", payloadSize, o.Rounds, o.For)
	fmt.Fprintf(o.Out, "one append of %d bytes and fdatasync: p50 %v\n\n", payloadSize, short(medianOf(r.syncs)))
	w = table(o.Out)
	fmt.Fprintln(w, "server\tan ack means\tRSS at rest\tafter the load\t")
	for _, p := range r.peers {
		now, err := memoryOf(p.process().PID())
		if err != nil {
			return err
		}
		if _, same := p.(throughAMQP); !same {
			fmt.Fprintf(w, "%s\t%s\t%v\t%v\t\n", p.name(), p.policy(), r.rest[p.name()], now)
		}
	}
	return w.Flush()
}

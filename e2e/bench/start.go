package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// startsEach is how many starts each of the rounds has: they are short.
const startsEach = 3

// start measures how long edgehub takes until clients can use it: for the first time,
// when it asks its cloud who may come in, and later.
func start(ctx context.Context, o Options) (bars []Bar, err error) {
	rig, err := newRig(ctx, o.dir("start"), o.Bin, 1, 1)
	defer func() { err = errors.Join(err, rig.Close()) }()
	if err != nil {
		return nil, err
	}
	var first, later []started
	for round := range o.Rounds {
		storage := o.dir(fmt.Sprintf("start/storage-%d", round))
		s, err := freshStorage(ctx, rig, storage)
		if err != nil {
			return nil, err
		}
		first = append(first, s)
		for range startsEach {
			hub, s, err := startHub(ctx, rig, storage)
			if err != nil {
				return nil, err
			}
			later = append(later, s)
			if err := stop(hub); err != nil {
				return nil, err
			}
		}
		o.Say("round %d: %v, later %v", round+1, first[len(first)-1], later[len(later)-1])
		if err := os.RemoveAll(storage); err != nil {
			return nil, err
		}
	}
	w := table(o.Out)
	fmt.Fprintln(w, "start of edgehub\tstarts\tfirst TLS handshake\tslowest\tfirst CONNACK\tslowest\t")
	row := func(name string, list []started) (handshake time.Duration) {
		var tls, connack []time.Duration
		for _, s := range list {
			tls, connack = append(tls, s.tls), append(connack, s.connack)
		}
		fmt.Fprintf(w, "%s\t%d\t%v\t%v\t%v\t%v\t\n", name, len(list), millis(medianOf(tls)), millis(largest(tls)), millis(medianOf(connack)), millis(largest(connack)))
		return medianOf(tls)
	}
	row("the first, on an empty folder", first)
	usual := row("later", later)
	fmt.Fprintln(w)
	const limit = 300 * time.Millisecond
	return []Bar{{"start of edgehub, exec to TLS", "at most 300 ms", fmt.Sprint(millis(usual)), usual <= limit}}, w.Flush()
}

func millis(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

func largest(list []time.Duration) (d time.Duration) {
	for _, v := range list {
		d = max(d, v)
	}
	return d
}

// Package conformance proves both hubs with clients that are not ours: the stock SDKs
// for Node, generic MQTT and AMQP clients, and streams of bytes that no client should
// send. It runs the built programs (package hubrig) and prints a table of what held.
//
// A scenario is one program that speaks one protocol to one hub. It says for each
// feature whether it held, and what must have arrived in the cloud, which is checked
// here by the hub's own stream of events. Which features there are is written here,
// not in the programs: one that ends early leaves failed rows and not fewer.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Options configure Run.
type Options struct {
	Bin     string // where the built programs are
	Scripts string // folder of this package, with the programs of other languages
	// Engine is the test program of the AMQP server alone (build tag conformance of
	// hub/amqp) and EngineDir the folder that it runs in; "" leaves it out.
	Engine, EngineDir string
	Dir               string // for data and logs; the data of earlier runs are in the way
	Seed              uint64 // of the mutated streams
	// Idle is how many idle connections each head has to bear; 10000 if 0.
	Idle int
	// Only selects scenarios that have one of these words in their name; none for
	// all.
	Only []string
	Out  io.Writer // takes the table
	Say  func(format string, a ...any)
}

// ErrFailed says that there are rows that failed.
var ErrFailed = errors.New("not everything held")

// part is one scenario, or a group of checks that is made here.
type part struct {
	name string // "client transport hub", what Options.Only selects by
	run  func(ctx context.Context, w *world)
}

// Run runs everything and writes the table. The error is ErrFailed when a row has
// failed, and another one when the world could not be made or ctx ended before all was
// run; then the table has what was run.
func Run(ctx context.Context, o Options) error {
	if o.Idle == 0 {
		o.Idle = 10000
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	w, err := newWorld(ctx, o)
	if err != nil {
		return errors.Join(err, w.close())
	}
	all, err := parts(ctx, w)
	if err == nil {
		all = slices.DeleteFunc(all, func(p part) bool { return !selected(o.Only, p.name) })
		if len(all) == 0 {
			err = fmt.Errorf("nothing has one of %q in its name", o.Only)
		}
	}
	if err == nil {
		err = w.startEdge(ctx)
	}
	if err != nil {
		return errors.Join(err, w.close())
	}
	began := time.Now()
	err = errors.Join(w.runAll(ctx, all), w.close())
	w.report.write(o.Out)
	n := w.report.counts()
	fmt.Fprintf(o.Out, "\nin %.0f s, seed %d\n%d passed, %d failed\n", time.Since(began).Seconds(), o.Seed, n.passed, n.failed)
	if err == nil && n.failed > 0 {
		return ErrFailed
	}
	return err
}

func (w *world) runAll(ctx context.Context, all []part) error {
	for i, p := range all {
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d scenarios were not run: %w", len(all)-i, len(all), ctx.Err())
		}
		start := time.Now()
		before := w.report.counts()
		p.run(ctx, w)
		after := w.report.counts()
		w.o.Say("%-44s %3d passed, %d failed, %.1f s", p.name, after.passed-before.passed, after.failed-before.failed, time.Since(start).Seconds())
	}
	return ctx.Err() // the last may have been cut short
}

func selected(words []string, name string) bool {
	for _, word := range words {
		if strings.Contains(name, word) {
			return true
		}
	}
	return len(words) == 0
}

// parts registers what the scenarios need and lists them.
func parts(ctx context.Context, w *world) ([]part, error) {
	if err := errors.Join(w.writeBothRoots(), w.registerOwn(ctx)); err != nil {
		return nil, err
	}
	node, err := nodeParts(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("register identities: %w", err)
	}
	var all []part
	for _, hub := range hubs {
		for _, transport := range []string{"mqtt", "mqtt-ws"} {
			all = append(all, part{"Paho " + transport + " " + hub, func(ctx context.Context, w *world) { w.paho(ctx, transport, hub) }})
		}
		all = append(all,
			part{"mosquitto mqtt " + hub, func(ctx context.Context, w *world) { w.mosquitto(ctx, hub) }},
			part{"go-amqp amqp " + hub, func(ctx context.Context, w *world) { w.goAMQP(ctx, hub) }},
			part{"Qpid Proton amqp " + hub, func(ctx context.Context, w *world) { w.proton(ctx, hub) }},
			part{"uAMQP amqp " + hub, func(ctx context.Context, w *world) { w.uamqp(ctx, hub) }},
			part{"raw bytes mqtt " + hub, func(ctx context.Context, w *world) { w.rawMQTT(ctx, hub) }},
			part{"raw bytes amqp " + hub, func(ctx context.Context, w *world) { w.rawAMQP(ctx, hub) }},
			part{"mutated streams " + hub, func(ctx context.Context, w *world) { w.mutated(ctx, hub) }},
		)
	}
	all = append(all, part{"uAMQP reader amqp " + hubCloud, func(ctx context.Context, w *world) { w.uamqpEvents(ctx) }})
	for _, hub := range hubs {
		all = append(all, part{"hostile peers " + hub, func(ctx context.Context, w *world) { w.hostile(ctx, hub) }})
	}
	all = append(all, node...)
	if w.o.Engine != "" {
		all = append(all, part{"AMQP server alone", func(ctx context.Context, w *world) { w.engine(ctx) }})
	}
	all = append(all, part{"idle connections", func(ctx context.Context, w *world) { w.idleAll(ctx) }})
	return all, nil
}

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
	"strings"
	"time"
)

// Options configure Run.
type Options struct {
	Bin     string // where the built programs are
	Scripts string // folder of this package, with the programs of other languages
	Dir     string // for data and logs
	Seed    uint64 // of the mutated streams
	// Idle is how many idle connections each head has to bear.
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
// failed, and another one when the world could not be made.
func Run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	w, err := newWorld(ctx, o)
	if err != nil {
		return errors.Join(err, w.close())
	}
	all, err := parts(ctx, w)
	if err == nil {
		err = w.startEdge(ctx)
	}
	if err != nil {
		return errors.Join(err, w.close())
	}
	began := time.Now()
	for _, p := range all {
		if !selected(o.Only, p.name) {
			continue
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), w.close())
		}
		start := time.Now()
		before := w.report.counts()
		p.run(ctx, w)
		after := w.report.counts()
		o.Say("%-44s %3d passed, %d failed, %.1f s", p.name, after.passed-before.passed, after.failed-before.failed, time.Since(start).Seconds())
	}
	if err := w.close(); err != nil {
		return err
	}
	w.report.write(o.Out)
	n := w.report.counts()
	fmt.Fprintf(o.Out, "\nin %.0f s, seed %d\n%d passed, %d failed\n", time.Since(began).Seconds(), o.Seed, n.passed, n.failed)
	if n.failed > 0 {
		return ErrFailed
	}
	return nil
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
	if err := w.writeBothRoots(); err != nil {
		return nil, err
	}
	var all []part
	for _, makers := range []func(context.Context, *world) ([]part, error){nodeParts} {
		list, err := makers(ctx, w)
		if err != nil {
			return nil, fmt.Errorf("register identities: %w", err)
		}
		all = append(all, list...)
	}
	return all, nil
}

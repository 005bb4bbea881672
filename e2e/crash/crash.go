// Package crash proves that edgehub loses nothing that it has acknowledged. The
// real program takes a load over MQTT and TLS and is killed at random moments,
// again and again, on a real disk and on one that forgets, tears, is full or breaks
// (package faultdisk). A ledger outside knows what was sent, acknowledged and
// delivered, at a module's input and in the cloud.
package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/faultdisk"
	"github.com/breakwater-iot/breakwater/e2e/hubrig"
)

// Options configure the runs.
type Options struct {
	Bin    string // where the built programs are
	Dir    string // for data and logs; emptied when all is well
	Cycles int
	Seed   uint64
	Say    func(format string, a ...any)
	// Metadata of the fault disk.
	Metadata faultdisk.Metadata
}

// Result is what a run has shown.
type Result struct {
	Acked, Lost, Duplicates, Cycles int
	Sent, Reordered                 int
	HubEnded                        int // cycles in which the hub ended by itself, as it must on a broken disk
	HubRefused                      int // cycles in which a full disk was refused and the hub went on
}

// String is the line that counts.
func (r Result) String() string {
	return fmt.Sprintf("acked %d, lost %d, duplicates %d, cycles %d", r.Acked, r.Lost, r.Duplicates, r.Cycles)
}

// harness is one run with a ledger of its own.
type harness struct {
	o       Options
	rig     *hubrig.Rig
	ledger  *ledger
	rand    *rand.Rand
	storage string
	env     []string
	noSink  bool // during the load, so that all stays with the hub
	result  Result
}

func begin(ctx context.Context, o Options, name string) (*harness, error) {
	h := &harness{o: o, ledger: newLedger(), rand: rand.New(rand.NewPCG(o.Seed, 7))}
	dir := filepath.Join(o.Dir, name)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	h.storage = filepath.Join(dir, "storage")
	if err := os.MkdirAll(h.storage, 0o700); err != nil {
		return nil, err
	}
	from, module := `FROM /messages/modules/`+loadModule+`/outputs/`, `BrokeredEndpoint("/modules/`+sinkModule+`/inputs/in")`
	var err error
	h.rig, err = hubrig.New(ctx, hubrig.Options{
		Dir: dir, Bin: o.Bin, Modules: []string{loadModule, sinkModule}, Say: o.Say,
		Routes: map[string]string{
			"a": from + toModule + " INTO " + module,
			"b": from + toCloud + " INTO $upstream",
			"c": from + toBoth + " INTO " + module,
			"d": from + toBoth + " INTO $upstream",
		},
	})
	if err == nil {
		err = h.rig.Monitor(func(line string) { h.ledger.deliver(toCloud, line) })
	}
	if err != nil {
		return nil, errors.Join(err, h.rig.Close())
	}
	return h, nil
}

// Kill runs the cycles on a real disk.
func Kill(ctx context.Context, o Options) (result Result, err error) {
	h, err := begin(ctx, o, "kill")
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, h.rig.Close()) }()
	for n := range o.Cycles {
		err := h.killCycle(ctx)
		if err == nil {
			err = h.verify(ctx, n)
		}
		if err != nil {
			return h.result, fmt.Errorf("cycle %d: %w", n+1, err)
		}
		h.progress(n + 1)
	}
	err = h.finish(ctx)
	return h.result, err
}

// verify looks at the store of the killed hub, after some of the cycles.
func (h *harness) verify(ctx context.Context, cycle int) error {
	if cycle%5 != 0 {
		return nil
	}
	return h.rig.VerifyStore(ctx, h.storage)
}

func (h *harness) progress(n int) {
	h.result.Cycles = n
	if n%25 == 0 {
		sent, acked := h.ledger.totals()
		all, repeats := h.ledger.arrived()
		h.o.Say("%d cycles: %d sent, %d acknowledged, %d deliveries, %d of them repeats", n, sent, acked, all, repeats)
	}
}

// startLimit is how long the hub may take until it takes clients.
const startLimit = 30 * time.Second

// killCycle starts the hub, loads it, and kills it at some moment.
func (h *harness) killCycle(ctx context.Context) error {
	hub, err := h.rig.StartHub(h.storage, h.env...)
	if err != nil {
		return err
	}
	defer hub.Kill()
	if h.result.Cycles > 0 && h.rand.IntN(10) == 0 { // while it starts
		return h.mustRun(hub, time.Duration(h.rand.IntN(150))*time.Millisecond)
	}
	return h.loadFor(ctx, hub, time.Duration(20+h.rand.IntN(500))*time.Millisecond)
}

// loadFor loads the hub for some time after it takes clients, and kills it.
func (h *harness) loadFor(ctx context.Context, hub *hubrig.Process, d time.Duration) error {
	starting, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if !h.noSink && h.rand.IntN(10) < 7 {
		defer h.withSink(ctx, hub)()
	}
	c, err := connect(starting, hub, h.rig.Login(loadModule))
	if err != nil {
		return h.withLog(fmt.Errorf("connect: %w", err))
	}
	defer c.Close()
	loading, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	limit, random := 200+h.rand.IntN(1800), rand.New(rand.NewPCG(h.rand.Uint64(), 3))
	go func() {
		defer close(done)
		h.load(loading, c, limit, random)
	}()
	defer func() { cancel(); <-done }()
	return h.mustRun(hub, d)
}

// mustRun waits, and then kills the hub, which must not have ended before.
func (h *harness) mustRun(hub *hubrig.Process, d time.Duration) error {
	select {
	case <-hub.Done():
		return h.withLog(errHubEnded)
	case <-time.After(d):
	}
	hub.Kill()
	return nil
}

// withLog adds the end of the hub's log to an error.
func (h *harness) withLog(err error) error {
	raw, readErr := os.ReadFile(h.rig.HubLog())
	if readErr != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return fmt.Errorf("%w; the end of %s:\n%s", err, h.rig.HubLog(), strings.Join(lines[max(0, len(lines)-8):], "\n"))
}

// note writes a line into the hub's log, so that one can follow what happened.
func (h *harness) note(format string, a ...any) {
	f, err := os.OpenFile(h.rig.HubLog(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return // there is no log yet
	}
	defer f.Close()
	fmt.Fprintf(f, "--- "+format+"\n", a...)
}

// quiet is how long nothing may arrive before what is missing counts as lost.
const quiet = 20 * time.Second

// settle lets the hub deliver all it has, ends it in an orderly way, and counts.
func (h *harness) settle(ctx context.Context) error { return h.settleWithin(ctx, quiet) }

func (h *harness) settleWithin(ctx context.Context, quiet time.Duration) error {
	hub, err := h.rig.StartHub(h.storage, h.env...)
	if err != nil {
		return err
	}
	defer hub.Kill()
	starting, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	c, err := connect(starting, hub, h.rig.Login(loadModule))
	if err != nil {
		return h.withLog(fmt.Errorf("connect: %w", err))
	}
	c.Close()
	defer h.withSink(ctx, hub)()
	before, since := -1, time.Now()
	for {
		few, lost := h.ledger.missing()
		all, repeats := h.ledger.arrived()
		if all != before {
			before, since = all, time.Now()
		}
		if lost > 0 && time.Since(since) < quiet {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-hub.Done():
				h.count(lost, repeats)
				return h.withLog(errHubEnded)
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		h.count(lost, repeats)
		for _, f := range few {
			h.o.Say("LOST: %s", f)
		}
		break
	}
	if err := hub.Stop(20 * time.Second); err != nil {
		return h.withLog(fmt.Errorf("orderly end: %w", err))
	}
	return nil
}

func (h *harness) count(lost, repeats int) {
	r := &h.result
	r.Sent, r.Acked = h.ledger.totals()
	r.Lost, r.Duplicates = lost, repeats
	r.Reordered = h.ledger.late
}

// finish ends a run that must not lose anything.
func (h *harness) finish(ctx context.Context) error {
	if err := h.settle(ctx); err != nil {
		return err
	}
	if err := h.rig.VerifyStore(ctx, h.storage); err != nil {
		return err
	}
	return h.check()
}

// check turns what must not be into an error.
func (h *harness) check() error {
	switch {
	case h.result.Lost > 0:
		return fmt.Errorf("%d acknowledged messages are lost", h.result.Lost)
	case len(h.ledger.unknown) > 0:
		return fmt.Errorf("something arrived that was not sent: %s", strings.Join(h.ledger.unknown, "; "))
	case h.result.Acked == 0:
		return errors.New("nothing was acknowledged: the run shows nothing")
	case h.result.Reordered > 0:
		return fmt.Errorf("%d messages came first after later ones of the same sender", h.result.Reordered)
	}
	return nil
}

package crash

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/faultdisk"
	"github.com/breakwater-iot/breakwater/e2e/hubrig"
)

// noSync makes edgehub leave out its fsync; see hub/cmd/edgehub.
const noSync = "BREAKWATER_TEST_UNSAFE_NO_SYNC=1"

// faulty is a harness whose hub stores on a fault disk.
type faulty struct {
	*harness
	disk   *faultdisk.Disk
	faults []faultdisk.Fault
}

func beginFaulty(ctx context.Context, o Options, name string) (*faulty, error) {
	h, err := begin(ctx, o, name)
	if err != nil {
		return nil, err
	}
	f := &faulty{harness: h, disk: faultdisk.New(o.Metadata, o.Seed)}
	if err := f.disk.Mount(h.storage); err != nil {
		return nil, errors.Join(err, h.rig.Close())
	}
	return f, nil
}

func (f *faulty) end() error { return errors.Join(f.disk.Unmount(), f.rig.Close()) }

// Fault runs the cycles on a fault disk: every one ends with a power cut, and some
// of them meet a disk that gets low on space or has none left, or one that breaks,
// before.
func Fault(ctx context.Context, o Options) (Result, error) {
	return run(ctx, o, "fault", faultdisk.Low, faultdisk.Broken, faultdisk.Full, faultdisk.Quota)
}

// NoSpace is Fault with no other faults than a disk that is full from one moment to the
// next, whether it says so or not.
func NoSpace(ctx context.Context, o Options) (Result, error) {
	return run(ctx, o, "nospace", faultdisk.Full, faultdisk.Quota)
}

func run(ctx context.Context, o Options, name string, faults ...faultdisk.Fault) (result Result, err error) {
	f, err := beginFaulty(ctx, o, name)
	if err != nil {
		return Result{}, err
	}
	f.faults = faults
	defer func() { err = errors.Join(err, f.end()) }()
	for n := range o.Cycles {
		from, _ := f.ledger.totals()
		what, err := f.cycle(ctx)
		to, _ := f.ledger.totals()
		if err == nil {
			err = f.verify(ctx, n)
		}
		f.note("cycle %d, messages %d to %d: %s", n+1, from, to-1, what)
		if err != nil {
			return f.result, fmt.Errorf("cycle %d, %s: %w", n+1, what, err)
		}
		f.progress(n + 1)
	}
	err = f.finish(ctx)
	return f.result, err
}

// cycle is one life of the hub and a power cut.
func (f *faulty) cycle(ctx context.Context) (what string, err error) {
	fault := faultdisk.None
	if n := f.rand.IntN(20); n < 6 && f.result.Cycles > 0 {
		fault = f.faults[n%len(f.faults)]
	}
	loss := faultdisk.Loss(f.rand.IntN(3))
	what = fmt.Sprintf("disk fault: %v, power cut: %v", fault, loss)
	if fault == faultdisk.None {
		err = f.killCycle(ctx)
	} else {
		err = f.faultCycle(ctx, fault)
	}
	if err != nil {
		return what, err
	}
	return what, f.disk.PowerCut(loss)
}

const (
	// endLimit is how soon the hub must end when its disk is broken.
	endLimit = 20 * time.Second
	// goOnLimit is how soon it must take messages again when there is space again.
	goOnLimit = 20 * time.Second
)

// faultCycle loads the hub, lets the disk fail in the middle, and looks how the hub
// takes it: a disk that says it is full is no reason to end, one that fails is.
func (f *faulty) faultCycle(ctx context.Context, fault faultdisk.Fault) error {
	hub, err := f.rig.StartHub(f.storage, f.env...)
	if err != nil {
		return err
	}
	defer hub.Kill()
	defer f.withSink(ctx, hub)()
	load := f.withLoad(ctx, hub)
	defer load.stop()
	if err := f.moreAcked(ctx, hub, 100, startLimit); err != nil {
		return f.withLog(fmt.Errorf("before the fault: %w", err))
	}
	f.disk.SetFault(fault)
	switch fault {
	case faultdisk.Broken:
		select {
		case <-hub.Done():
		case <-time.After(endLimit):
			return f.withLog(fmt.Errorf("hub has not ended %v after the disk broke", endLimit))
		}
		return f.mustHaveFailed(hub)
	case faultdisk.Full, faultdisk.Quota:
		// What it needs no new space for it may still do. Its database may fail by it,
		// and then it must end.
		select {
		case <-hub.Done():
			return f.mustHaveFailed(hub)
		case <-time.After(time.Duration(f.rand.IntN(1500)) * time.Millisecond):
		}
		if f.rand.IntN(2) == 0 {
			return nil // a power cut before there is space again
		}
		f.disk.SetFault(faultdisk.None)
		err := f.moreAcked(ctx, hub, 100, goOnLimit)
		if errors.Is(err, errHubEnded) {
			return f.mustHaveFailed(hub)
		}
		if err != nil {
			return f.withLog(fmt.Errorf("after there was space again: %w", err))
		}
		f.result.HubRefused++
	case faultdisk.Low:
		if err := f.isRefused(ctx, hub); err != nil {
			return f.withLog(err)
		}
		f.disk.SetFault(faultdisk.None)
		if err := f.moreAcked(ctx, hub, 100, goOnLimit); err != nil {
			return f.withLog(fmt.Errorf("after there was space again: %w", err))
		}
		f.result.HubRefused++
	case faultdisk.None:
	}
	return nil
}

func (f *faulty) mustHaveFailed(hub *hubrig.Process) error {
	var exit *exec.ExitError
	if err := hub.Err(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return f.withLog(fmt.Errorf("hub did not end with status 1 but with: %w", err))
	}
	f.result.HubEnded++
	return nil
}

// isRefused waits until the disk was full for a while and looks that nothing was
// acknowledged at the end of it.
func (f *faulty) isRefused(ctx context.Context, hub *hubrig.Process) error {
	for _, d := range []time.Duration{200 * time.Millisecond, 300 * time.Millisecond} {
		_, before := f.ledger.totals()
		select {
		case <-hub.Done():
			return errHubEnded
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
		}
		if _, after := f.ledger.totals(); after == before {
			return nil
		}
	}
	return errors.New("hub goes on to acknowledge although the disk is full")
}

// moreAcked waits for some more acknowledgements.
func (h *harness) moreAcked(ctx context.Context, hub *hubrig.Process, n int, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, before := h.ledger.totals()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, now := h.ledger.totals(); now >= before+n {
			return nil
		}
		select {
		case <-hub.Done():
			return errHubEnded
		case <-ctx.Done():
			return fmt.Errorf("%d more acknowledgements did not come within %v", n, limit)
		case <-tick.C:
		}
	}
}

// controlCuts is how many power cuts the control has at most.
const controlCuts = 3

// Control shows that the fault run would see a loss: without fsync a power cut must
// lose something. It returns how many acknowledged messages were lost.
func Control(ctx context.Context, o Options) (result Result, err error) {
	f, err := beginFaulty(ctx, o, "control")
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, f.end()) }()
	f.env, f.noSink = []string{noSync}, true
	quiet := 3 * time.Second
	for range controlCuts {
		if err := f.killCycle(ctx); err != nil {
			return f.result, err
		}
		if err := f.disk.PowerCut(faultdisk.DropAll); err != nil {
			return f.result, err
		}
		f.result.Cycles++
	}
	err = f.settleWithin(ctx, quiet)
	return f.result, err
}

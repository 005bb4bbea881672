package footprint

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

const (
	// look is the time between two looks at what the program does.
	look = 15 * time.Second
	// restful is the processor time of one look below which the program rests: 1 %.
	restful = look / 100
	// worthwhile is the processor time since the last trim from which there may be
	// something to give back.
	worthwhile = time.Second / 2
)

// RunResting is Run for a program that does not only wait: it leaves the collector as it
// is, and trims when the program has done something and rests again, and when its start
// is over. It returns nil when ctx ends; the error tells that pages cannot be given back
// on this system.
func RunResting(ctx context.Context) error { return runResting(ctx, processorTime, Trim) }

func runResting(ctx context.Context, used func() (time.Duration, error), trim func() error) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	began := time.Now()
	var last, trimmed time.Duration // processor time at the last look, and after the last trim
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := used()
		if err != nil {
			return err
		}
		rests := now-last < restful
		last = now
		if !rests || time.Since(began) < firstTrim || trimmed > 0 && now-trimmed < worthwhile {
			continue
		}
		if err := trim(); err != nil {
			return err
		}
		if trimmed, err = used(); err != nil {
			return err
		}
		last = trimmed
	}
}

// processorTime is what the program has used so far.
func processorTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("own processor time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

package crash

import (
	"context"
	"errors"
	"fmt"
)

// All runs the whole: kills on a real disk, faults, and the control that shows that
// a loss would be seen. It says what each has shown and fails on any loss.
func All(ctx context.Context, o Options) error {
	o.Say("kill -9 at random moments, on the disk of this machine (seed %d)", o.Seed)
	killed, err := Kill(ctx, o)
	o.Say("kill: %v", killed)
	if err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	o.Say("power cuts, disks low on space, full and broken ones, on a fault disk (names: %v)", o.Metadata)
	faults, err := Fault(ctx, o)
	o.Say("fault disk: %v; ended by itself on a broken disk in %d, refused and went on with a full one in %d",
		faults, faults.HubEnded, faults.HubRefused)
	if err != nil {
		return fmt.Errorf("fault disk: %w", err)
	}
	o.Say("control: the same power cuts with the fsync left out")
	control, err := Control(ctx, o)
	o.Say("control: %v", control)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if control.Lost == 0 {
		return errors.New("control: nothing was lost without fsync, so this run would not see a loss")
	}
	o.Say("control: %d of %d were lost without fsync, as they must be", control.Lost, control.Acked)
	killed.add(faults)
	o.Say("%v", killed)
	return nil
}

func (r *Result) add(o Result) {
	r.Sent += o.Sent
	r.Acked += o.Acked
	r.Lost += o.Lost
	r.Duplicates += o.Duplicates
	r.Cycles += o.Cycles
}

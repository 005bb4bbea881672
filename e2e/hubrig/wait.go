package hubrig

import (
	"context"
	"time"
)

// Eventually repeats a check every 100 ms until it returns nil, or ctx ends: then it
// returns the check's last error.
func Eventually(ctx context.Context, check func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

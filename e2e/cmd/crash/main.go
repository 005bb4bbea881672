// Command crash kills edgehub again and again under a load and counts what it has
// lost; see package crash. It needs root, for a network namespace and FUSE.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/breakwater-iot/breakwater/e2e/crash"
	"github.com/breakwater-iot/breakwater/e2e/faultdisk"
)

type options struct {
	Bin     string `default:"bin" help:"Folder of the built programs."`
	Dir     string `help:"Folder for data and logs (a new one by default, which is removed when all is well)."`
	Cycles  int    `default:"200" help:"How often to kill on a real disk; as many cycles on a fault disk follow."`
	Seed    uint64 `help:"Of the random choices (the time by default)."`
	NoSpace bool   `help:"Only cycles on a disk that is full from one moment to the next."`
	Names   string `default:"ordered" enum:"ordered,own,strict" help:"When new file names are durable: after any sync (ordered: ext4, XFS), a sync of the file (own: btrfs) or of its folder only (strict)."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Description("Kill edgehub under a load and count what it loses."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "crash: FAILED:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	made := o.Dir == ""
	if made {
		dir, err := os.MkdirTemp("", "crash-")
		if err != nil {
			return err
		}
		o.Dir = dir
	}
	began := time.Now()
	metadata := map[string]faultdisk.Metadata{"ordered": faultdisk.Ordered, "own": faultdisk.Own, "strict": faultdisk.Strict}[o.Names]
	co := crash.Options{
		Bin: o.Bin, Dir: o.Dir, Cycles: o.Cycles, Seed: o.Seed, Metadata: metadata,
		Say: func(format string, a ...any) {
			fmt.Printf("%6.1fs  "+format+"\n", append([]any{time.Since(began).Seconds()}, a...)...)
		},
	}
	var err error
	if o.NoSpace {
		var r crash.Result
		r, err = crash.NoSpace(ctx, co)
		fmt.Println(r)
	} else {
		err = crash.All(ctx, co)
	}
	if err != nil {
		return fmt.Errorf("%w (seed %d, logs in %s)", err, o.Seed, o.Dir)
	}
	if made {
		return os.RemoveAll(o.Dir)
	}
	return nil
}

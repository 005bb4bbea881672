package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// queued is what one round with a long backlog has measured.
type queued struct {
	filled, drained float64 // messages a second
	emptyRest       memory  // without messages, after a start
	fullRest        memory  // with them, after a start
	before, after   memory  // of the process that was filled: after a load that was delivered, and after it
	disk, left      int64   // bytes: more than without messages, and when all are delivered
	empty, full     time.Duration
}

// settleFor is how long a hub is left alone before its memory is read.
const settleFor = 4 * time.Second

// backlog queues messages for a module that is not there, starts the hub anew, and
// lets the module take them.
func backlog(ctx context.Context, o Options) (bars []Bar, err error) {
	rig, err := newRig(ctx, o.dir("backlog"), o.Bin, 8, 1)
	defer func() { err = errors.Join(err, rig.Close()) }()
	if err != nil {
		return nil, err
	}
	var rounds []queued
	for round := range o.Rounds {
		storage := o.dir(fmt.Sprintf("backlog/storage-%d", round))
		q, err := queueOnce(ctx, rig, storage, o.Backlog)
		if err != nil {
			return nil, err
		}
		rounds = append(rounds, q)
		o.Say("round %d: filled %.0f/s, memory %v then %v, start %v, without messages %v, drained %.0f/s, disk %s then %s",
			round+1, q.filled, q.emptyRest, q.fullRest, millis(q.full), millis(q.empty), q.drained, megabytes(q.disk), megabytes(q.left))
		if err := os.RemoveAll(storage); err != nil {
			return nil, err
		}
	}
	return printBacklog(o, rounds)
}

func queueOnce(ctx context.Context, rig *hubrig.Rig, storage string, n int) (q queued, err error) {
	if _, err := freshStorage(ctx, rig, storage); err != nil {
		return q, err
	}
	if q.empty, q.emptyRest, err = startsOf(ctx, rig, storage); err != nil {
		return q, err
	}
	bare, err := diskUse(storage)
	if err != nil {
		return q, err
	}
	hub, _, err := startHub(ctx, rig, storage)
	if err != nil {
		return q, err
	}
	defer func() { hub.Kill() }() // whichever it is by then
	if err := warm(ctx, rig, n/10); err != nil {
		return q, err
	}
	if q.before, err = restOf(ctx, hub); err != nil {
		return q, err
	}
	if q.filled, err = fill(ctx, rig, n); err != nil {
		return q, err
	}
	if q.after, err = restOf(ctx, hub); err != nil {
		return q, err
	}
	if q.disk, err = diskUse(storage); err != nil {
		return q, err
	}
	q.disk -= bare
	if err := stop(hub); err != nil {
		return q, err
	}
	if q.full, q.fullRest, err = startsOf(ctx, rig, storage); err != nil {
		return q, err
	}
	if hub, _, err = startHub(ctx, rig, storage); err != nil {
		return q, err
	}
	if q.drained, err = drain(ctx, rig, n); err != nil {
		return q, err
	}
	if !pause(ctx, settleFor) {
		return q, ctx.Err()
	}
	if q.left, err = diskUse(storage); err != nil {
		return q, err
	}
	q.left -= bare
	return q, stop(hub)
}

// warm lets the hub carry a load that is delivered at once, so that what any load
// leaves behind in memory is not taken for the backlog's.
func warm(ctx context.Context, rig *hubrig.Rig, n int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	delivered := make(chan error, 1)
	go func() {
		_, err := drain(ctx, rig, n)
		delivered <- err
	}()
	_, err := fill(ctx, rig, n)
	if err != nil {
		cancel() // not all can come
	}
	return errors.Join(err, <-delivered)
}

// startsOf is the median time to the first CONNACK of a few starts, and the memory at
// rest after the last.
func startsOf(ctx context.Context, rig *hubrig.Rig, storage string) (time.Duration, memory, error) {
	var took []time.Duration
	var rest memory
	for i := range startsEach {
		hub, s, err := startHub(ctx, rig, storage)
		if err != nil {
			return 0, rest, err
		}
		took = append(took, s.connack)
		if i == startsEach-1 {
			if rest, err = restOf(ctx, hub); err != nil {
				return 0, rest, errors.Join(err, stop(hub))
			}
		}
		if err := stop(hub); err != nil {
			return 0, rest, err
		}
	}
	return medianOf(took), rest, nil
}

func restOf(ctx context.Context, hub *hubrig.Process) (memory, error) {
	if !pause(ctx, settleFor) {
		return memory{}, ctx.Err()
	}
	return memoryOf(hub.PID())
}

// fill publishes n messages by 8 modules with 64 in flight each.
func fill(ctx context.Context, rig *hubrig.Rig, n int) (perSecond float64, err error) {
	const publishers, inFlight = 8, 64
	began := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, publishers)
	for i := range publishers {
		wg.Go(func() {
			errs[i] = func() error {
				c, err := dialMQTT(ctx, rig.Login(moduleName(i)), hubrig.Output(moduleName(i), outputName)+"&kind=telemetry")
				if err != nil {
					return err
				}
				defer c.Close()
				p := publisher{c: c, began: began, sent: new(atomic.Int64)}
				return p.count(inFlight, (n+i)/publishers)
			}()
		})
	}
	wg.Wait()
	return float64(n) / time.Since(began).Seconds(), errors.Join(errs...)
}

// drain lets the module take n messages.
func drain(ctx context.Context, rig *hubrig.Rig, n int) (perSecond float64, err error) {
	o := rig.Login(sinkModule)
	all := make(chan struct{})
	got := 0 // only the goroutine that reads
	o.OnMessage = func(string, []byte) {
		if got++; got == n {
			close(all)
		}
	}
	c, err := mqttload.Dial(ctx, o)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	began := time.Now()
	if err := c.Subscribe(ctx, hubrig.Inputs(sinkModule)); err != nil {
		return 0, err
	}
	select {
	case <-all:
		return float64(n) / time.Since(began).Seconds(), nil
	case <-c.Done():
		return 0, fmt.Errorf("the module's connection ended: %w", c.Err())
	case <-time.After(10 * time.Minute):
		return 0, fmt.Errorf("not all of %d messages came within 10 minutes", n)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func printBacklog(o Options, rounds []queued) ([]Bar, error) {
	number := func(of func(queued) float64) float64 {
		var list []float64
		for _, q := range rounds {
			list = append(list, of(q))
		}
		return medianOf(list)
	}
	size := func(of func(queued) int64) int64 {
		return int64(number(func(q queued) float64 { return float64(of(q)) }))
	}
	more := size(func(q queued) int64 { return q.fullRest.own - q.emptyRest.own })
	moreAll := size(func(q queued) int64 { return q.fullRest.all() - q.emptyRest.all() })
	grown := size(func(q queued) int64 { return q.after.own - q.before.own })
	grownAll := size(func(q queued) int64 { return q.after.all() - q.before.all() })
	disk, left := size(func(q queued) int64 { return q.disk }), size(func(q queued) int64 { return q.left })
	empty := time.Duration(number(func(q queued) float64 { return float64(q.empty) }))
	full := time.Duration(number(func(q queued) float64 { return float64(q.full) }))
	n := int64(o.Backlog)
	w := table(o.Out)
	fmt.Fprintf(w, "%d messages of %d bytes for a module that is away\t\n", o.Backlog, payloadSize)
	line := func(what, format string, a ...any) {
		fmt.Fprintf(w, "%s\t"+format+"\t\n", append([]any{what}, a...)...)
	}
	line("queued a second, 8 x 64", "%.0f", number(func(q queued) float64 { return q.filled }))
	line("more memory with them, after a start", "%s (%s of its own)", megabytes(moreAll), megabytes(more))
	line("more memory in the process that was filled, than after a load that was delivered", "%s (%s of its own)", megabytes(grownAll), megabytes(grown))
	line("disk, beside bodies of "+megabytes(n*payloadSize), "%s, %d bytes a message", megabytes(disk), disk/n)
	line("start to the first CONNACK", "%v", millis(full))
	line("the same without messages", "%v", millis(empty))
	line("delivered a second when the module comes", "%.0f", number(func(q queued) float64 { return q.drained }))
	line("disk when all are delivered", "%s", megabytes(left))
	fmt.Fprintf(w, "\nmedian of %d rounds\n", len(rounds))
	const limit = 16e6
	slower := float64(full) / float64(empty)
	return []Bar{
		{fmt.Sprintf("%d queued messages, more memory", o.Backlog), "at most 16 MB", megabytes(max(moreAll, grownAll)), max(moreAll, grownAll) <= limit},
		{"the same, start to the first CONNACK beside an empty one", "at most 2 x", fmt.Sprintf("%.2f x", slower), slower <= 2},
	}, w.Flush()
}

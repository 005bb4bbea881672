package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-iot/breakwater/e2e/hubrig"
	"github.com/breakwater-iot/breakwater/e2e/mqttload"
)

// Options configure Run.
type Options struct {
	Bin, Dir string
	Rounds   int
	For      time.Duration // each measurement
	Out      io.Writer
	Say      func(format string, a ...any)
}

var shapes = []Shape{{1, 1}, {1, 64}, {8, 64}}

// Run measures all peers in turns and prints the table.
func Run(ctx context.Context, o Options) (err error) {
	e, err := startEdgehub(ctx, o.Dir, o.Bin, 8)
	defer func() {
		if e.hub != nil {
			err = errors.Join(err, e.hub.Stop(20*time.Second))
		}
		err = errors.Join(err, e.rig.Close())
	}()
	if err != nil {
		return err
	}
	brokers, err := startBrokers(o.Dir, o.Bin)
	defer func() {
		for _, b := range brokers {
			b.p.Kill()
		}
	}()
	if err != nil {
		return err
	}
	peers := []peer{e}
	for _, b := range brokers {
		peers = append(peers, b)
	}
	rest := make(map[string]int)
	for _, p := range peers {
		if err := waitFor(ctx, p); err != nil {
			return err
		}
	}
	if !pause(ctx, 3*time.Second) {
		return ctx.Err()
	}
	for _, p := range peers {
		if rest[p.name()], err = resident(p.process()); err != nil {
			return err
		}
	}
	var syncs []time.Duration // in turns with the others, since the disk changes too
	samples := make(map[string][]Sample) // by peer and shape
	for round := range o.Rounds {
		floor, err := fdatasync(o.Dir, 300)
		if err != nil {
			return err
		}
		syncs = append(syncs, floor)
		for _, s := range shapes {
			for _, p := range peers {
				m, err := measure(ctx, p, s, o.For)
				if err != nil {
					return fmt.Errorf("%s, %v: %w", p.name(), s, err)
				}
				o.Say("round %d: %v %-9s %8.0f acked/s %8.0f delivered/s", round+1, s, p.name(), m.Acked, m.Delivered)
				samples[p.name()+s.String()] = append(samples[p.name()+s.String()], m)
			}
		}
	}
	slices.Sort(syncs)
	return o.print(peers, samples, rest, syncs[len(syncs)/2])
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func waitFor(ctx context.Context, p peer) error {
	var err error
	for range 200 {
		var c *mqttload.Client
		if c, err = mqttload.Dial(ctx, p.publisher(0)); err == nil {
			c.Close()
			return nil
		}
		select {
		case <-p.process().Done():
			return fmt.Errorf("%s ended: %w", p.name(), p.process().Err())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not take clients: %w", p.name(), err)
}

func (o Options) print(peers []peer, samples map[string][]Sample, rest map[string]int, syncs time.Duration) error {
	w := tabwriter.NewWriter(o.Out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "load\tserver\tacked/s\tdelivered/s\tack p50\tp99\tdelivery p50\tp99\tedgehub is, acked\tdelivered\t")
	for _, s := range shapes {
		hub := median(samples["edgehub"+s.String()])
		for _, p := range peers {
			m := median(samples[p.name()+s.String()])
			fmt.Fprintf(w, "%v\t%s\t%.0f\t%.0f\t%v\t%v\t%v\t%v\t%.2f x\t%.2f x\t\n", s, p.name(), m.Acked, m.Delivered,
				short(m.AckP50), short(m.AckP99), short(m.DeliveredP50), short(m.DeliverP99),
				hub.Acked/m.Acked, hub.Delivered/m.Delivered)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "\n%d-byte messages, QoS 1, TLS, one subscriber; median of %d rounds of %v\n", payloadSize, o.Rounds, o.For)
	fmt.Fprintf(o.Out, "one append of %d bytes and fdatasync: p50 %v\n\n", payloadSize, short(syncs))
	w = tabwriter.NewWriter(o.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "server\tan ack means\tRSS at rest\tafter the load")
	for _, p := range peers {
		now, err := resident(p.process())
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f MB\t%.1f MB\n", p.name(), p.policy(), mb(rest[p.name()]), mb(now))
	}
	return w.Flush()
}

func mb(kib int) float64 { return float64(kib) * 1024 / 1e6 }

func short(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// resident is the resident memory of a process, in KiB.
func resident(p *hubrig.Process) (int, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			var n int
			_, err := fmt.Sscan(v, &n)
			return n, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// fdatasync measures the floor of a durable acknowledgement: p50 of appending a
// message to a file and syncing it.
func fdatasync(dir string, n int) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "floor"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(n*payloadSize)); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		if _, err := f.Write(make([]byte, payloadSize)); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[n/2], nil
}

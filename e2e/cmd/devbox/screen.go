package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/breakwater-iot/breakwater/e2e/rig"
)

// screen writes whole lines from several goroutines.
type screen struct {
	mu    sync.Mutex
	w     io.Writer
	begin time.Time
}

func newScreen(w io.Writer) *screen { return &screen{w: w, begin: time.Now()} }

func (s *screen) line(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, "%6.1fs  %s\n", time.Since(s.begin).Seconds(), fmt.Sprintf(format, a...))
}

func (s *screen) say(text string) { s.line("%s", text) }

// message shows a message that has arrived in the cloud.
func (s *screen) message(identity string, body json.RawMessage) {
	s.line("cloud <- %-14s %s", identity, body)
}

// status shows the modules and the hub's counters.
func (s *screen) status(ctx context.Context, r *rig.Rig) {
	var parts []string
	list, err := r.EdgeCtl(ctx, "list")
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		parts = append(parts, "modules: "+err.Error())
	} else {
		for _, line := range strings.Split(strings.TrimSpace(list), "\n")[1:] {
			if f := strings.Fields(line); len(f) > 1 {
				parts = append(parts, f[0]+" "+f[1])
			}
		}
	}
	if m, err := r.HubMetrics(ctx); err == nil {
		parts = append(parts, fmt.Sprintf("clients %.0f, received %.0f, sent %.0f, queued %.0f",
			m.Sum("edgehub_connected_clients"), m.Sum("edgehub_messages_received_total"),
			m.Sum("edgehub_messages_sent_total"), m.Sum("edgehub_queue_length")))
	}
	n := 0
	for _, id := range r.Arrived.Identities() {
		count, _ := r.Arrived.Count(id)
		n += count
	}
	s.line("-- %s; in the cloud %d", strings.Join(parts, ", "), n)
}

// summary prints the account. It returns an error if anything was lost or failed.
func (s *screen) summary(balances []rig.Balance, m rig.Metrics, report rig.AgentReport, memory map[string]int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []error
	w := tabwriter.NewWriter(s.w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nIDENTITY\tACKNOWLEDGED\tFOR THE CLOUD\tIN THE CLOUD\tDUPLICATES\tLOST")
	for _, b := range balances {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\n", b.Identity, b.Acked, b.ForCloud, b.Arrived, b.Duplicates, len(b.Lost))
		if len(b.Lost) > 0 {
			failed = append(failed, fmt.Errorf("%s lost %d messages, the first is %s", b.Identity, len(b.Lost), b.Lost[0]))
		}
		if b.ForCloud == 0 {
			failed = append(failed, fmt.Errorf("%s sent nothing to the cloud", b.Identity))
		}
	}
	w.Flush()
	noRoute := m.Sum("edgehub_messages_dropped_total", `reason="no_route"`)
	fmt.Fprintf(s.w, "\nedgeHub: received %.0f, sent %.0f, without a route %.0f, dropped %.0f\n",
		m.Sum("edgehub_messages_received_total"), m.Sum("edgehub_messages_sent_total"),
		noRoute, m.Sum("edgehub_messages_dropped_total")-noRoute)
	restarts := 0
	all := report.All()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		restarts += all[name].RestartCount
		if all[name].RuntimeStatus != "running" {
			failed = append(failed, fmt.Errorf("module %s is %s", name, all[name].RuntimeStatus))
		}
	}
	fmt.Fprintf(s.w, "restarts: %d\n", restarts)
	if report.LastDesiredStatus.Code != 200 {
		failed = append(failed, fmt.Errorf("agent reports %d: %s", report.LastDesiredStatus.Code, report.LastDesiredStatus.Description))
	}
	fmt.Fprint(s.w, "peak memory:")
	for _, name := range slices.Sorted(maps.Keys(memory)) {
		fmt.Fprintf(s.w, " %s %.1f MB", name, float64(memory[name])/1024)
	}
	fmt.Fprintln(s.w)
	return errors.Join(failed...)
}

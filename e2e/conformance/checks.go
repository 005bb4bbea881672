package conformance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// checks are a scenario that is made in this program.
type checks struct {
	w                      *world
	client, transport, hub string
}

// checkLimit ends one check.
const checkLimit = 2 * time.Minute

// check runs one and fills its row. The text is a note for the table, as a figure.
func (c *checks) check(ctx context.Context, name string, f func(ctx context.Context) (string, error)) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	logged := c.w.logSizes()
	note, err := f(ctx)
	r := result{c.client, c.transport, c.hub, name, passed, note}
	if err != nil {
		r.status, r.reason = failed, err.Error()
	}
	c.w.report.add(r)
	if err != nil {
		c.w.explain(strings.Join([]string{c.client, c.transport, c.hub, name}, " "), err.Error(), logged)
	}
}

// na fills the row of something that is not tried.
func (c *checks) na(name, why string) {
	c.w.report.add(result{c.client, c.transport, c.hub, name, notApplicable, why})
}

// unharmed runs f while a canary publishes at the hub; afterwards the hub must be
// the same process and the canary must have noticed nothing.
func (c *checks) unharmed(ctx context.Context, f func(ctx context.Context) (string, error)) (string, error) {
	pid := c.w.process(c.hub).PID()
	bird, err := c.w.startCanary(ctx, c.hub)
	if err != nil {
		return "", err
	}
	note, err := f(ctx)
	song, harm := bird.stop()
	select {
	case <-c.w.process(c.hub).Done():
		return "", fmt.Errorf("%s has ended: %w", c.hub, c.w.process(c.hub).Err())
	default:
	}
	if now := c.w.process(c.hub).PID(); now != pid {
		return "", fmt.Errorf("the process was %d and is %d", pid, now)
	}
	if err == nil {
		err = harm
	}
	if note != "" {
		note += "; "
	}
	return note + song, err
}

// memory is the resident memory of a hub in bytes.
func (w *world) memory(hub string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.process(hub).PID()))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(raw) {
		if text, ok := strings.CutPrefix(string(line), "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of process %d", w.process(hub).PID())
}

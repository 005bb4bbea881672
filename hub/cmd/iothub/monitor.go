package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/breakwater-iot/breakwater/proto/iothub/connstr"
	"github.com/breakwater-iot/breakwater/proto/iothub/rest"
)

type monitorCommand struct {
	remote
	Since  string `default:"now" help:"Where to begin: beginning, now, or a position."`
	Device string `help:"Only events of this device and its modules."`
	Output string `enum:"text,json" default:"text" help:"Form: ${enum}; json prints one event a line."`
	Follow bool   `default:"true" negatable:"" help:"Go on when the end is reached."`
}

// Bounds of the pause before the stream is opened again.
const (
	firstPause = 200 * time.Millisecond
	maxPause   = 5 * time.Second
)

// Run prints events until the context ends, or the log does. When it follows, it
// outlives restarts of the hub and prints no event twice.
func (m *monitorCommand) Run(ctx context.Context, env environment) error {
	return m.use(func(c *rest.Client, _ connstr.String) error {
		q := rest.EventQuery{Since: m.Since, Device: m.Device, Follow: m.Follow}
		printer := &eventPrinter{out: env.out, json: m.Output == "json"}
		for pause := firstPause; ; pause = min(2*pause, maxPause) {
			before := printer.next
			err := c.Events(ctx, q, printer.print)
			switch {
			case err == nil, ctx.Err() != nil:
				return nil //nolint:nilerr // the user ended it
			case errors.As(err, new(outputError)):
				return err
			case rest.StatusOf(err) > 0 && rest.StatusOf(err) < 500, !m.Follow, !printer.any && m.Since == "now":
				return asked(err)
			}
			if printer.next != before {
				pause = firstPause
			}
			if printer.any {
				q.Since = strconv.FormatUint(printer.next, 10)
			}
			fmt.Fprintf(env.err, "iothub: %v; trying again\n", err)
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil
			}
		}
	})
}

// outputError is a failure to print.
type outputError struct{ error }

// eventPrinter prints events and remembers where to go on.
type eventPrinter struct {
	out  io.Writer
	json bool
	any  bool
	next uint64
}

func (p *eventPrinter) print(line []byte) error {
	var e rest.EventLine
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("event of the hub: %w", err)
	}
	var err error
	if p.json {
		_, err = fmt.Fprintf(p.out, "%s\n", line)
	} else {
		err = p.text(&e)
	}
	if err != nil {
		return outputError{err}
	}
	p.any, p.next = true, e.Position+1
	return nil
}

func (p *eventPrinter) text(e *rest.EventLine) error {
	who := e.Event.Origin
	if e.Event.Module != "" {
		who += "/" + e.Event.Module
	}
	at := ""
	if ms, ok := e.Event.Annotations["iothub-enqueuedtime"].(float64); ok {
		at = time.UnixMilli(int64(ms)).UTC().Format("2006-01-02T15:04:05.000Z")
	}
	application := ""
	if len(e.Event.Properties.Application) > 0 {
		raw, err := json.Marshal(e.Event.Properties.Application)
		if err != nil {
			return err
		}
		application = " " + string(raw)
	}
	_, err := fmt.Fprintf(p.out, "%d %s %s %s%s\n", e.Position, at, who, e.Event.Payload, application)
	return err
}

package edged

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

const (
	firstWatchPause = time.Second
	lastWatchPause  = 30 * time.Second
)

// Watch calls changed after every change of a module that the daemon tells of, and
// once after each (re)connection, because changes may have been missed. It returns
// when ctx ends, or nil when the daemon has no such call.
func (c *Client) Watch(ctx context.Context, log *slog.Logger, changed func()) error {
	pause := firstWatchPause
	for {
		begin := time.Now()
		err := c.watchOnce(ctx, changed)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if status.Code(err) == codes.Unimplemented {
			log.Warn("the daemon tells of no events: changes are seen at the next cycle")
			return nil
		}
		if time.Since(begin) > lastWatchPause {
			pause = firstWatchPause
		}
		log.Debug("event stream ended", "error", err, "retry", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		pause = min(pause*2, lastWatchPause)
	}
}

func (c *Client) watchOnce(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.modules.Watch(ctx, &managementv1.WatchRequest{})
	if err != nil {
		return err
	}
	if _, err := stream.Header(); err != nil {
		return err
	}
	changed()
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		changed()
	}
}

// LogQuery selects lines of a module's log.
type LogQuery struct {
	Tail, Since, Until string
	Timestamps         bool
}

// LogLine is one line as the module wrote it.
type LogLine struct {
	Stderr bool
	Time   time.Time
	Data   []byte
}

// within gives a call without a deadline the usual one.
func (c *Client) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.opts.Timeout)
}

// SupportBundle writes the daemon's support bundle, a zip file, to w. since and
// until are as in LogQuery.
func (c *Client) SupportBundle(ctx context.Context, since, until string, edgeRuntimeOnly bool, w io.Writer) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	stream, err := c.system.SupportBundle(ctx, &managementv1.SupportBundleRequest{
		Since: since, Until: until, EdgeRuntimeOnly: edgeRuntimeOnly,
	})
	if err != nil {
		return callError("support bundle", err)
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return callError("support bundle", err)
		}
		if _, err := w.Write(chunk.GetData()); err != nil {
			return err
		}
	}
}

// Logs calls line for each line, in order; an error of line ends it.
func (c *Client) Logs(ctx context.Context, module string, q LogQuery, line func(LogLine) error) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	stream, err := c.modules.Logs(ctx, &managementv1.LogsRequest{
		Name: module, Tail: q.Tail, Since: q.Since, Until: q.Until, Timestamps: q.Timestamps,
	})
	if err != nil {
		return callError("logs of "+module, err)
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return callError("logs of "+module, err)
		}
		l := LogLine{Stderr: chunk.GetStream() == managementv1.LogChunk_STREAM_STDERR, Data: chunk.GetData()}
		if chunk.GetTime().IsValid() {
			l.Time = chunk.GetTime().AsTime()
		}
		if err := line(l); err != nil {
			return err
		}
	}
}

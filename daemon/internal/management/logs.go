package management

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/breakwater-iot/breakwater/daemon/internal/humantime"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// stampLayout is the engine's timestamp before a line.
const stampLayout = "2006-01-02T15:04:05.000000000Z "

// Logs streams what a module wrote.
func (s *Modules) Logs(r *managementv1.LogsRequest, stream grpc.ServerStreamingServer[managementv1.LogChunk]) error {
	ctx := stream.Context()
	opts, err := logOptions(r, time.Now())
	if err != nil {
		return invalid("%v", err)
	}
	if _, err := s.Manager.Get(ctx, r.GetName()); err != nil {
		return fail(ctx, s.Log, err)
	}
	// Whoever follows a silent module learns that the call was accepted.
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	inLine := map[runtime.Stream]bool{} // a piece of the stream's line was sent already
	for e, err := range s.Observer.Logs(ctx, r.GetName(), opts) {
		if err != nil {
			return fail(ctx, s.Log, err)
		}
		data := e.Line
		if r.GetTimestamps() && !inLine[e.Stream] {
			data = append([]byte(e.Time.UTC().Format(stampLayout)), data...)
		}
		inLine[e.Stream] = e.Partial
		err := stream.Send(&managementv1.LogChunk{
			Stream: chunkStream(e.Stream), Time: timestamppb.New(e.Time), Data: data,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func chunkStream(s runtime.Stream) managementv1.LogChunk_Stream {
	if s == runtime.Stderr {
		return managementv1.LogChunk_STREAM_STDERR
	}
	return managementv1.LogChunk_STREAM_STDOUT
}

func logOptions(r *managementv1.LogsRequest, now time.Time) (runtime.LogOptions, error) {
	opts := runtime.LogOptions{Follow: r.GetFollow()}
	var err error
	if opts.Tail, err = parseTail(r.GetTail()); err != nil {
		return opts, err
	}
	if opts.Since, err = humantime.Moment(r.GetSince(), now); err != nil {
		return opts, fmt.Errorf("since: %w", err)
	}
	if opts.Until, err = humantime.Moment(r.GetUntil(), now); err != nil {
		return opts, fmt.Errorf("until: %w", err)
	}
	return opts, nil
}

func parseTail(s string) (int, error) {
	if s == "" || s == "all" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("tail: %q is neither \"all\" nor a number", s)
	}
	if n == 0 {
		return runtime.TailNone, nil
	}
	return int(n), nil
}

// eventKinds maps the engine's events to the API's.
var eventKinds = map[runtime.EventType]managementv1.ModuleEvent_Kind{
	runtime.EventCreated: managementv1.ModuleEvent_KIND_CREATED,
	runtime.EventStarted: managementv1.ModuleEvent_KIND_STARTED,
	runtime.EventExited:  managementv1.ModuleEvent_KIND_EXITED,
	runtime.EventRemoved: managementv1.ModuleEvent_KIND_REMOVED,
	runtime.EventHealth:  managementv1.ModuleEvent_KIND_HEALTH,
}

// Watch streams events from the moment its headers are sent. When the reader falls
// behind, or the engine's stream breaks, one event of kind lost is sent.
func (s *Modules) Watch(_ *managementv1.WatchRequest, stream grpc.ServerStreamingServer[managementv1.ModuleEvent]) error {
	ctx := stream.Context()
	events := s.Observer.Events(ctx)
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		e, ok := <-events
		if ok {
			if err := stream.Send(event(e)); err != nil {
				return err
			}
			continue
		}
		if err := s.resumable(ctx); err != nil {
			return err
		}
		// Subscribe before telling, so that a list made then misses nothing.
		events = s.Observer.Events(ctx)
		lost := &managementv1.ModuleEvent{Kind: managementv1.ModuleEvent_KIND_LOST, Time: timestamppb.Now()}
		if err := stream.Send(lost); err != nil {
			return err
		}
	}
}

// resumable waits a moment after the engine's stream ended and tells whether to go
// on: not when the call has ended.
func (s *Modules) resumable(ctx context.Context) error {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fail(ctx, s.Log, ctx.Err())
	case <-timer.C:
		return nil
	}
}

func event(e runtime.Event) *managementv1.ModuleEvent {
	out := &managementv1.ModuleEvent{Kind: eventKinds[e.Type], Name: e.Module, Time: timestamppb.New(e.Time)}
	if e.Type == runtime.EventExited {
		out.ExitCode = uint32(e.ExitCode)
	}
	out.Health = string(e.Health)
	return out
}

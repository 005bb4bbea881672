package management

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/breakwater-iot/breakwater/daemon/internal/bundle"
	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/redact"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// bundleChunk is the size of the pieces that a bundle is sent in.
const bundleChunk = 32 << 10

// SupportBundle streams a zip file of logs/<module>_log.txt, inspect/<module>.json,
// system.json, and what Extras adds. What package redact knows as secrets is covered in
// all of it. A log that cannot be read is replaced by the reason.
func (s *System) SupportBundle(r *managementv1.SupportBundleRequest, stream grpc.ServerStreamingServer[managementv1.BundleChunk]) error {
	ctx := stream.Context()
	now := time.Now()
	opts, err := logOptions(&managementv1.LogsRequest{Since: r.GetSince(), Until: r.GetUntil()}, now)
	if err != nil {
		return invalid("%v", err)
	}
	all, err := s.Modules.List(ctx)
	if err != nil {
		return fail(ctx, s.Log, err)
	}
	info, err := s.GetInfo(ctx, &managementv1.GetInfoRequest{})
	if err != nil {
		return err
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	out := bufio.NewWriterSize(chunkWriter{stream}, bundleChunk)
	b := moduleParts{archive: bundle.New(out, now), observer: s.Observer, logs: opts}
	if err := b.json("system.json", info); err != nil {
		return fail(ctx, s.Log, err)
	}
	for _, st := range all {
		if r.GetEdgeRuntimeOnly() && st.Name != module.Agent && st.Name != "edgeHub" {
			continue
		}
		if err := b.module(ctx, st); err != nil {
			return fail(ctx, s.Log, err)
		}
	}
	if s.Extras != nil {
		wish := bundle.Wish{Since: opts.Since, Until: opts.Until, HubName: r.GetIothubHostname()}
		if err := s.Extras(ctx, b.archive, wish); err != nil {
			return fail(ctx, s.Log, err)
		}
	}
	if err := b.archive.Close(); err != nil {
		return fail(ctx, s.Log, err)
	}
	return out.Flush()
}

// chunkWriter sends what is written.
type chunkWriter struct {
	stream grpc.ServerStreamingServer[managementv1.BundleChunk]
}

func (w chunkWriter) Write(p []byte) (int, error) {
	// The message may be used after Send has returned, p not.
	if err := w.stream.Send(&managementv1.BundleChunk{Data: bytes.Clone(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// moduleParts puts into a bundle what the daemon knows of its modules.
type moduleParts struct {
	archive  *bundle.Archive
	observer runtime.Observer
	logs     runtime.LogOptions
}

func (b *moduleParts) json(name string, m proto.Message) error {
	text, err := protojson.Marshal(m)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var even bytes.Buffer // the library varies its spaces
	if err := json.Indent(&even, text, "", "  "); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return b.archive.Add(name, func(w io.Writer) error {
		_, err := even.WriteTo(w)
		return err
	})
}

func (b *moduleParts) module(ctx context.Context, st runtime.State) error {
	details, err := describe(st)
	if err != nil {
		return err
	}
	if err := b.json("inspect/"+st.Name+".json", details); err != nil {
		return err
	}
	return b.archive.Add("logs/"+st.Name+"_log.txt", func(w io.Writer) error { return b.log(ctx, w, st.Name) })
}

func (b *moduleParts) log(ctx context.Context, w io.Writer, name string) (err error) {
	inLine := map[runtime.Stream]bool{}
	// A secret may lie in several pieces or lines of one stream, with something of the
	// other between them.
	streams := map[runtime.Stream]*redact.Writer{}
	defer func() {
		for _, to := range streams {
			err = errors.Join(err, to.Close())
		}
	}()
	for e, err := range b.observer.Logs(ctx, name, b.logs) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			_, err = fmt.Fprintf(w, "(log cannot be read: %v)\n", err)
			return err
		}
		to := streams[e.Stream]
		if to == nil {
			to = redact.NewWriter(w)
			streams[e.Stream] = to
		}
		if !inLine[e.Stream] {
			if _, err := io.WriteString(to, e.Time.UTC().Format(stampLayout)); err != nil {
				return err
			}
		}
		inLine[e.Stream] = e.Partial
		if _, err := to.Write(e.Line); err != nil {
			return err
		}
	}
	return nil
}

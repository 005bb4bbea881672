package management

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/breakwater-iot/breakwater/daemon/internal/module"
	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

// bundleChunk is the size of the pieces that a bundle is sent in.
const bundleChunk = 32 << 10

// SupportBundle streams a zip file of logs/<module>_log.txt, inspect/<module>.json
// and system.json. There is no secret in it, unless a module wrote one into its
// log. A log that cannot be read is replaced by the reason.
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
	b := bundle{zip: zip.NewWriter(out), now: now, observer: s.Observer, logs: opts}
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
	if err := b.zip.Close(); err != nil {
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

// bundle is the zip file as it grows.
type bundle struct {
	zip      *zip.Writer
	now      time.Time
	observer runtime.Observer
	logs     runtime.LogOptions
}

func (b *bundle) file(name string) (io.Writer, error) {
	return b.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: b.now})
}

func (b *bundle) json(name string, m proto.Message) error {
	text, err := protojson.Marshal(m)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var even bytes.Buffer // the library varies its spaces
	if err := json.Indent(&even, text, "", "  "); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w, err := b.file(name)
	if err != nil {
		return err
	}
	_, err = even.WriteTo(w)
	return err
}

func (b *bundle) module(ctx context.Context, st runtime.State) error {
	details, err := describe(st)
	if err != nil {
		return err
	}
	if err := b.json("inspect/"+st.Name+".json", details); err != nil {
		return err
	}
	w, err := b.file("logs/" + st.Name + "_log.txt")
	if err != nil {
		return err
	}
	inLine := map[runtime.Stream]bool{}
	for e, err := range b.observer.Logs(ctx, st.Name, b.logs) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			_, err = fmt.Fprintf(w, "(log cannot be read: %v)\n", err)
			return err
		}
		if !inLine[e.Stream] {
			if _, err := io.WriteString(w, e.Time.UTC().Format(stampLayout)); err != nil {
				return err
			}
		}
		inLine[e.Stream] = e.Partial
		if _, err := w.Write(e.Line); err != nil {
			return err
		}
	}
	return nil
}

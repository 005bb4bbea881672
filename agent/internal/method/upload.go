package method

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/blob"
	"github.com/breakwater-iot/breakwater/agent/internal/manifest"
)

// Uploader sends what write writes to a target; *blob.Uploader is the real one.
type Uploader interface {
	Upload(ctx context.Context, t blob.Target, c blob.Content, write func(io.Writer) error) error
}

const blobTime = "2006-01-02--15-04-05"

func (h *Handler) target(sasURL string) (blob.Target, error) {
	if sasURL == "" {
		return blob.Target{}, bad("sasUrl is missing")
	}
	replaced, ok := manifest.ReplaceUpstream(sasURL, h.opts.Parent)
	if !ok {
		return blob.Target{}, bad("sasUrl names $upstream, and this device has no parent")
	}
	t, err := blob.ParseTarget(replaced)
	if err != nil {
		return blob.Target{}, bad("sasUrl %w", err)
	}
	return t, nil
}

// uploadLogs answers UploadModuleLogs: it begins a task that makes one blob of each
// module's log.
func (h *Handler) uploadLogs(ctx context.Context, payload json.RawMessage) (any, error) {
	var r struct {
		logRequest
		SasURL string
	}
	if err := decode(payload, &r); err != nil {
		return nil, err
	}
	target, err := h.target(r.SasURL)
	if err != nil {
		return nil, err
	}
	f, err := r.format()
	if err != nil {
		return nil, err
	}
	list, err := h.selection(ctx, r.logRequest)
	if err != nil {
		return nil, err
	}
	return h.tasks.add("UploadModuleLogs", func(ctx context.Context) error {
		for _, s := range list {
			if err := h.uploadLog(ctx, target, s, f); err != nil {
				return fmt.Errorf("log of %s: %w", s.module, err)
			}
		}
		return nil
	})
}

func (h *Handler) uploadLog(ctx context.Context, target blob.Target, s selected, f format) error {
	c := blob.Content{
		Name: fmt.Sprintf("%s/%s/%s-%s.%s", h.opts.HubName, h.opts.DeviceID, s.module, time.Now().UTC().Format(blobTime), f.extension()),
		Kind: blob.Append, Type: f.contentType(), Encoding: f.encoding(),
	}
	if f.json {
		c.Kind = blob.Block
	}
	return h.opts.Uploader.Upload(ctx, target, c, func(w io.Writer) error { return h.write(ctx, w, s, f) })
}

// uploadBundle answers UploadSupportBundle.
func (h *Handler) uploadBundle(_ context.Context, payload json.RawMessage) (any, error) {
	var r struct {
		SasURL          string
		Since, Until    timeText
		EdgeRuntimeOnly bool
	}
	if err := decode(payload, &r); err != nil {
		return nil, err
	}
	target, err := h.target(r.SasURL)
	if err != nil {
		return nil, err
	}
	return h.tasks.add("UploadSupportBundle", func(ctx context.Context) error {
		c := blob.Content{
			Name: fmt.Sprintf("%s/%s/support-bundle-%s.zip", h.opts.HubName, h.opts.DeviceID, time.Now().UTC().Format(blobTime)),
			Kind: blob.Block, Type: "application/zip",
		}
		err := h.opts.Uploader.Upload(ctx, target, c, func(w io.Writer) error {
			return h.daemon.SupportBundle(ctx, string(r.Since), string(r.Until), r.EdgeRuntimeOnly, w)
		})
		if err != nil {
			return fmt.Errorf("support bundle: %w", err)
		}
		return nil
	})
}

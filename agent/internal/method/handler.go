package method

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-iot/breakwater/agent/internal/edged"
	"github.com/breakwater-iot/breakwater/agent/internal/plan"
	"github.com/breakwater-iot/breakwater/proto/iothub"
)

// maxResult is the largest result that is sent, in bytes.
const maxResult = 127000

// Daemon is what the methods need of the daemon; *edged.Client is the real one.
type Daemon interface {
	Modules(ctx context.Context) ([]plan.Engine, error)
	Restart(ctx context.Context, module string) error
	// Logs calls line for each piece of a log, in order; a piece without a line
	// break is continued by the next one of its stream.
	Logs(ctx context.Context, module string, q edged.LogQuery, line func(edged.LogLine) error) error
	// SupportBundle writes a zip file to w.
	SupportBundle(ctx context.Context, since, until string, edgeRuntimeOnly bool, w io.Writer) error
}

// Options of a handler.
type Options struct {
	HubName, DeviceID string
	Parent            string // that $upstream stands for in a sasUrl; empty: none
	Uploader          Uploader
	Timeout           time.Duration // of one request (RequestTimeoutSecs)
	// LevelAtMost makes a log level select that level and the graver ones; the
	// original selects that level only (LogFilterLevelMode=atMost).
	LevelAtMost bool
	// Restarted is called after a restart.
	Restarted func()
	Log       *slog.Logger
}

// Handler answers. It may be used from many goroutines.
type Handler struct {
	daemon  Daemon
	opts    Options
	tasks   *tasks
	methods map[string]func(context.Context, json.RawMessage) (any, error)
	names   string
}

// New returns a handler. What it begins is carried out by Run.
func New(daemon Daemon, opts Options) *Handler {
	h := &Handler{daemon: daemon, opts: opts, tasks: newTasks()}
	h.methods = map[string]func(context.Context, json.RawMessage) (any, error){
		"ping":                func(context.Context, json.RawMessage) (any, error) { return nil, nil },
		"RestartModule":       h.restart,
		"GetModuleLogs":       h.logs,
		"UploadModuleLogs":    h.uploadLogs,
		"UploadLogs":          h.uploadLogs, // its name in older releases
		"UploadSupportBundle": h.uploadBundle,
		"GetTaskStatus":       h.taskStatus,
	}
	h.names = strings.Join(slices.Sorted(maps.Keys(h.methods)), ", ")
	return h
}

// badRequest is an error that the caller of a method has made.
type badRequest struct{ error }

func (e badRequest) Unwrap() error { return e.error }

func bad(format string, args ...any) error { return badRequest{fmt.Errorf(format, args...)} }

// Handle answers one request. Names of methods match in any letter case.
func (h *Handler) Handle(ctx context.Context, r iothub.MethodRequest) iothub.MethodResponse {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	result, err := h.dispatch(ctx, r)
	if err == nil {
		var payload json.RawMessage
		if payload, err = encode(result); err == nil && len(payload) > maxResult {
			err = tooLarge()
		}
		if err == nil {
			h.opts.Log.Info("direct method", "method", r.Name, "status", 200)
			return iothub.MethodResponse{Status: 200, Payload: payload}
		}
	}
	status := 500
	if _, isBad := errors.AsType[badRequest](err); isBad {
		status = 400
	}
	h.opts.Log.Warn("direct method", "method", r.Name, "status", status, "error", err)
	payload, encErr := encode(map[string]string{"message": err.Error()})
	if encErr != nil {
		payload = json.RawMessage(`{"message":"error text cannot be encoded"}`)
	}
	return iothub.MethodResponse{Status: status, Payload: payload}
}

func (h *Handler) dispatch(ctx context.Context, r iothub.MethodRequest) (any, error) {
	for name, f := range h.methods {
		if strings.EqualFold(name, r.Name) {
			return f(ctx, r.Payload)
		}
	}
	return nil, bad("Command '%s' not found. The supported commands are - %s", r.Name, h.names)
}

func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// decode reads a request and checks its schema version: major 1.
func decode(payload json.RawMessage, into any) error {
	if trimmed := bytes.TrimSpace(payload); len(trimmed) == 0 || string(trimmed) == "null" {
		return bad("the payload is missing")
	}
	var head struct{ SchemaVersion *string }
	if err := json.Unmarshal(payload, &head); err != nil {
		return bad("the payload is malformed: %w", err)
	}
	if head.SchemaVersion == nil {
		return bad("schemaVersion is missing")
	}
	major, _, _ := strings.Cut(*head.SchemaVersion, ".")
	if n, err := strconv.Atoi(major); err != nil || n != 1 {
		return bad("schemaVersion %q is not supported: expected 1.0", *head.SchemaVersion)
	}
	if err := json.Unmarshal(payload, into); err != nil {
		return bad("the payload is malformed: %w", err)
	}
	return nil
}

func (h *Handler) restart(ctx context.Context, payload json.RawMessage) (any, error) {
	var r struct{ ID string }
	if err := decode(payload, &r); err != nil {
		return nil, err
	}
	if r.ID == "" {
		return nil, bad("id is missing")
	}
	list, err := h.daemon.Modules(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(list, func(e plan.Engine) bool { return e.Name == r.ID }) {
		return nil, fmt.Errorf("Module %s not found in the current environment", r.ID) //nolint:staticcheck // the original's words
	}
	if err := h.daemon.Restart(ctx, r.ID); err != nil {
		return nil, err
	}
	if h.opts.Restarted != nil {
		h.opts.Restarted()
	}
	return nil, nil
}
